/* What the parts of the operator ale::BlockProduct share: see block-products.c. */

#ifndef ALE_BLOCK_PRODUCTS_H
#define ALE_BLOCK_PRODUCTS_H

#include <stddef.h>
#include <stdint.h>

/* Columns of y that are computed together, one per 32-bit lane of 512 bits. */
#define LANES 16
/* Weights of a column that lie together: eight vectors of four in each lane, with 4 bits two of them in a line. */
#define PART 32
#define VECTORS 8
#define LINE 64
/* How far ahead of its use memory is asked for. Processors stop reading ahead at the end of each page of 4096 bytes. */
#define AHEAD 4096

struct shape {
  int64_t n, k, bits, block;
};

struct product {
  struct shape shape;
  const uint8_t *w;
  const float *x, *bias;
  float *y;
  /* The rows of x in codes. */
  uint8_t *rounded;
  size_t rows, pieces;
};

static inline size_t blocks_of(const struct shape *s) { return (s->k + s->block - 1) / s->block; }
static inline size_t groups_of(const struct shape *s) { return (s->n + LANES - 1) / LANES; }
/* Bytes of a block of sixteen columns: scales, codes. */
static inline size_t block_bytes(const struct shape *s) { return LANES * sizeof(float) + LANES * s->block * s->bits / 8; }
/* Bytes of a rounded block of x: codes, float32 scale, and what the zero point adds to a sum of products. */
static inline size_t rounded_bytes(const struct shape *s) { return s->block + 8; }
static inline size_t rounded_row_bytes(const struct shape *s) { return blocks_of(s) * rounded_bytes(s); }

/*
 * With one set of instructions: `round_row` writes a row of x in codes (a block that holds NaN gets the scale NaN, one with an
 * infinity gets that), `multiply` computes sixteen columns of all rows of y. All sets give the same bits.
 */
struct instructions {
  void (*round_row)(const float *x, const struct shape *s, uint8_t *out);
  void (*multiply)(const struct product *p, size_t group);
};

extern const struct instructions vnni_instructions, avx2_instructions;

#endif
