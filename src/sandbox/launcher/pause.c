/* Requests that need both the control groups and the sandbox's init. */
#include "broker.h"

/* The sandbox's init adds what it sees. */
void sandbox_statistics(const struct frame_header *header) {
  struct statistics statistics;
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  if (sandbox == NULL || sandbox->state != SANDBOX_LIVE || sandbox->destroying) {
    answer_error(header->request, header->sandbox, "the sandbox is gone");
    return;
  }
  cgroups_statistics(&broker.cgroups, header->sandbox, &statistics);
  /* An init that is frozen cannot answer. */
  if (sandbox->frozen) answer(header->request, header->sandbox, 0, &statistics, sizeof statistics);
  else sandbox_send(sandbox, header, (uint8_t *)&statistics, sizeof statistics);
}

/* Its init notes the time first, and stops the processes itself where the control group cannot freeze them. */
void sandbox_pause(const struct frame_header *header) {
  uint8_t stop = !cgroups_can_freeze(&broker.cgroups);
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  if (sandbox == NULL || sandbox->state != SANDBOX_LIVE || sandbox->destroying) {
    answer_error(header->request, header->sandbox, "the sandbox is gone");
    return;
  }
  if (!stop) sandbox->pause_request = header->request;
  sandbox_send(sandbox, header, &stop, 1);
}

void sandbox_resume(const struct frame_header *header) {
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  if (sandbox != NULL && sandbox->frozen && cgroups_freeze(&broker.cgroups, sandbox->id, false)) sandbox->frozen = false;
  sandbox_forward(header, NULL);
}

/* The init has noted the time. False: the request is answered with the reason why the group was not frozen. */
bool sandbox_paused(struct sandbox *sandbox) {
  uint32_t request = sandbox->pause_request;
  sandbox->pause_request = 0;
  sandbox->frozen = cgroups_freeze(&broker.cgroups, sandbox->id, true);
  if (!sandbox->frozen) answer_error(request, sandbox->id, "the control group could not be frozen");
  return sandbox->frozen;
}
