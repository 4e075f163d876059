/* What the parts of the operator ale::DecoderLayer share: see decoder-layer.c. */

#ifndef ALE_DECODER_LAYER_H
#define ALE_DECODER_LAYER_H

#include <stddef.h>
#include <stdint.h>

enum {
  X,
  LENGTHS,
  ATTENTION_NORM,
  QUERY_KEY_VALUE,
  OUTPUT,
  MLP_NORM,
  GATE_UP,
  DOWN,
  COS,
  SIN,
  PAST_KEYS,
  PAST_VALUES,
  INPUTS
};
enum { Y, KEYS, VALUES, OUTPUTS };

struct layer_shape {
  int64_t hidden, heads, kv_heads, head_dim, inner, pieces;
  float eps;
};

/* One step of all rows. */
struct layer_step {
  struct layer_shape shape;
  const float *in[INPUTS];
  float *out[OUTPUTS];
  const int32_t *lengths;
  size_t rows, cells;
  /* `scratch_floats` of them per piece. */
  float *scratch;
  /* Takes rows [first, end) through the layer. */
  void (*run)(const struct layer_step *, size_t first, size_t end, float *scratch);
};

/* Vectors a matrix's extents are to be whole numbers of, whatever the instructions. */
#define LAYER_LANES 16

static inline size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t query_width(const struct layer_shape *s) { return s->heads * s->head_dim; }
static inline size_t packed_width(const struct layer_shape *s) { return (s->heads + 2 * s->kv_heads) * s->head_dim; }
/* Widths of what a row needs: input of a product, the wide result of one, the sum in the middle. */
static inline size_t narrow_width(const struct layer_shape *s) { return larger(s->hidden, query_width(s)); }
static inline size_t wide_width(const struct layer_shape *s) { return larger(packed_width(s), 2 * s->inner); }

static inline size_t scratch_floats(const struct layer_shape *s, size_t rows, size_t cells) {
  return rows * (narrow_width(s) + wide_width(s) + s->hidden) + cells + 2 * LAYER_LANES;
}

void layer_rows_avx2(const struct layer_step *, size_t first, size_t end, float *scratch);
void layer_rows_avx512(const struct layer_step *, size_t first, size_t end, float *scratch);

#endif
