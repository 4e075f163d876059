/** How a GPU keeps the weight matrices that its products read; masters of what is trained are float32 always. */
export const MATRIX_STORAGES = ["float32", "bfloat16"] as const;
export type MatrixStorage = (typeof MATRIX_STORAGES)[number];
