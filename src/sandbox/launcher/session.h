/* Shared by the two files of the persistent shells: session.c takes requests, session-events.c lets time pass. */
#ifndef ALE_SESSION_H
#define ALE_SESSION_H

#include "init.h"

enum state { CLOSED, DEAD, IDLE, RUNNING, INTERRUPTING, CLOSING };
enum {
  INTERRUPT_FIRST_US = 10000,
  INTERRUPT_AGAIN_US = 50000,
  INTERRUPT_TRIES = 4,
  INTERRUPT_FOR_US = 2000000,
  INTERRUPT_REACH_US = 500000, /* what starts later missed no interrupt */
  SETTLE_US = 1000,
  YOUNG_US = 200000, /* a command of which the shell may still be reading */
  CLOSE_FOR_US = 500000,
  DRAIN_MAX = 1 << 20
};

struct shell {
  enum state state;
  struct shell_ends ends;
  struct launch *launch;      /* how it is started; what it points to follows it in memory */
  struct buffer unsent;       /* driver lines the shell has not read yet */
  char status_text[256];
  size_t status_used;
  uint32_t number;            /* of the answer that is waited for */
  int last_code;              /* what $? shall be for the next command */
  uint32_t request;
  struct capture capture;
  int64_t started, deadline;  /* of the command */
  uint64_t started_ticks;
  enum status reason;         /* why it is being interrupted */
  bool lost;                  /* the shell ended between commands, and nobody was told yet */
  bool console;
  int64_t interrupt_until, interrupt_next;
  int interrupts;
  size_t sent;                /* bytes of the driver since the shell was started */
  bool interrupt_waits;       /* until the shell can take it */
  bool interrupted, answered; /* by request; the shell is back, but what it had started may not have ended */
  bool startled;              /* it was signalled, and may not have noticed yet */
  uint64_t interrupted_ticks;
};

#define NO_ENDS ((struct shell_ends){.driver = -1, .output = -1, .status = -1, .terminal = -1})

extern struct shell shells[MAX_SHELLS];
extern int shells_used; /* those beyond were never opened */

static inline bool shell_busy(const struct shell *shell) {
  return shell->state == RUNNING || shell->state == INTERRUPTING;
}
pid_t tree_of(const struct shell *shell);
void close_pipes(struct shell *shell);
void send_driver(struct shell *shell, const char *text, size_t length);
void ask_status(struct shell *shell);
void start_shell(struct shell *shell);
void forget_shell(struct shell *shell);
void drain_output(struct shell *shell);
void finish_command(struct shell *shell, enum status status, int code, bool restarted);
void begin_interrupt(struct shell *shell, int64_t now);
void interrupt_command(struct shell *shell, enum status reason, int64_t now);

#endif
