#include "launcher.h"

#include <sys/prctl.h>

int main(int argument_count, char **arguments) {
  bool probing = argument_count > 1 && strcmp(arguments[1], "probe") == 0;
  if (probing) return probe_main();
  if (argument_count > 1 && strcmp(arguments[1], "filter") == 0) return filter_main();
  bool in_container = argument_count > 1 && strcmp(arguments[1], "container") == 0;
  bool on_landlock = argument_count > 1 && strcmp(arguments[1], "landlock") == 0;
  /* The inits are clones of this process: what `ps` shows in a sandbox must not name the host's paths. */
  for (int i = 0; i < argument_count; i++) memset(arguments[i], 0, strlen(arguments[i]));
  memcpy(arguments[0], "ale", 3);
  if (in_container) return container_main();
  if (on_landlock) return landlock_main();
  prctl(PR_SET_NAME, "ale-launcher");
  return broker_main();
}
