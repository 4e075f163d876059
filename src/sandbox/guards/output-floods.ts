/** Output floods: commands that were ended for what they wrote, again and again, or much more than anybody reads. */

import type { CommandResult } from "../../core/ports.ts";

export class OutputWatch {
  #hits = 0;
  #bytes = 0;

  look(
    { status, outputBytes }: Pick<CommandResult, "status" | "outputBytes">,
    settings: { readonly hits: number; readonly bytes: number },
  ): string | undefined {
    this.#bytes += outputBytes;
    if (status === "output_limit") {
      this.#hits++;
      if (this.#hits >= settings.hits) return `${this.#hits} commands were ended for the amount of their output`;
    }
    return this.#bytes >= settings.bytes ? `${this.#bytes} bytes of output` : undefined;
  }
}
