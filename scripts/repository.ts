import { resolve } from "node:path";

/** Absolute path of the checkout that these scripts belong to. */
export const REPOSITORY: string = resolve(import.meta.dir, "..");
