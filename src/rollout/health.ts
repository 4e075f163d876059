/** Failures of the machine rather than of the policy. */

import { AleError } from "../core/errors.ts";
import { MACHINE_FAULTS, type Trajectory } from "../core/types.ts";

/** So many failures before the first episode that could be judged are enough to know. */
const FIRST_FAILURES = 16;

/**
 * Single failures are data; when most episodes fail for a reason of ours, and fail again where they are tried again, going on
 * would train on noise. The others are then stopped at once, as soon as that is certain or no episode has worked at all.
 */
export class MachineHealth {
  readonly #episodes: number;
  readonly #giveUp = new AbortController();
  #failed = 0;
  #judged = 0;
  #firstError: string | undefined;

  constructor(episodes: number) {
    this.#episodes = episodes;
  }

  /** Aborted, with the error that ends the collection, when going on makes no sense. */
  get signal(): AbortSignal {
    return this.#giveUp.signal;
  }

  record({ stopReason, error }: Pick<Trajectory, "stopReason" | "error">): void {
    if (!MACHINE_FAULTS.has(stopReason)) {
      this.#judged++;
      return;
    }
    this.#failed++;
    this.#firstError ??= error ?? stopReason;
    const hopeless = this.#judged === 0 && this.#failed >= FIRST_FAILURES;
    if (this.#giveUp.signal.aborted || (this.#failed * 2 <= this.#episodes && !hopeless)) return;
    this.#giveUp.abort(
      new AleError(
        "sandbox",
        `${this.#failed} of ${this.#episodes} episodes failed before they could be judged: ${this.#firstError}`,
        {
          hint:
            stopReason === "grader_error"
              ? "ale tasks check SUITE tries the verifiers of the tasks, ale doctor this machine; then ale resume"
              : "run `ale doctor`, then `ale resume`",
        },
      ),
    );
  }
}
