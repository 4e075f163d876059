/** Processes that Ale starts from its own executable; each has an entry in `start.ts`. */
export type Role = "engine" | "self-test" | "reward-function";

/** A role is asked for by the first argument, `--ale-role=<name>`; nothing of the command line begins so. */
export const ROLE_ARGUMENT = "--ale-role=";
