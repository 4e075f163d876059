/**
 * Forms that frozen weight matrices may have: as they are, or rounded to 8 or 4 bits in blocks of 32 weights, or 4 bits in blocks
 * of 128 (`models/quantization.ts`).
 */
export const QUANTIZATIONS = ["none", "int8", "int4", "int4-128"] as const;
export type Quantization = (typeof QUANTIZATIONS)[number];
