/** The page as texts, embedded in the executable. */

import { buildPage } from "./page.macro.ts" with { type: "macro" };
import type { Page } from "./page.macro.ts";

export const page: Page = buildPage();
