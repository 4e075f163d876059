/*
 * The arithmetic of ale::DecoderLayer for one set of instructions. Who includes this defines: ROWS, the function's name; TARGET;
 * INLINE; VECTOR of LANES floats and INDICES of as many int32; FMA(a, b, c) = a b + c; SPREAD(a); LOAD(p); STORE(p, a); ROUND(a) to
 * whole numbers; WHOLE(a), these as int32; LARGER(a, b) and SMALLER(a, b); and across(sums), whose lane i is the sum of all lanes of
 * sums[i], which it may change.
 *
 * A product's columns are rows of its weights, which lie as checkpoints have them, so each sum runs along both operands and ends
 * with one across the lanes. LANES sums are kept at once, of 1, 2 or 4 rows by as many columns as that leaves. Each sum is taken
 * in the same order wherever it stands: a row has the same bits in whatever company.
 */

#include <math.h>
#include <string.h>

#include "decoder-layer.h"

/* Rows that share weights in registers. */
#define MOST_ROWS 4

INLINE float sum_of(VECTOR a) {
  float sums[LANES];
  STORE(sums, a);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) sums[i] += sums[i + width];
  return sums[0];
}

/* e to the a; what is below −87 or above 88 is taken for it. Of two numbers the second is kept if one is NaN. */
INLINE VECTOR exp_of(VECTOR a) {
  a = SMALLER(SPREAD(88.0f), LARGER(SPREAD(-87.0f), a));
  const VECTOR powers = ROUND(a * SPREAD(1.44269504f));
  /* ln 2 in two parts, of which the first times a power is exact. */
  VECTOR rest = FMA(powers, SPREAD(-0.693359375f), a);
  rest = FMA(powers, SPREAD(2.12194440e-4f), rest);
  VECTOR sum = SPREAD(1.0f / 5040);
  sum = FMA(sum, rest, SPREAD(1.0f / 720));
  sum = FMA(sum, rest, SPREAD(1.0f / 120));
  sum = FMA(sum, rest, SPREAD(1.0f / 24));
  sum = FMA(sum, rest, SPREAD(1.0f / 6));
  sum = FMA(sum, rest, SPREAD(0.5f));
  sum = FMA(sum, rest, SPREAD(1.0f));
  sum = FMA(sum, rest, SPREAD(1.0f));
  const INDICES exponents = (WHOLE(powers) + 127) << 23;
  VECTOR scale;
  memcpy(&scale, &exponents, sizeof scale);
  return sum * scale;
}

struct matrix {
  const float *at;
  size_t stride;
};

struct product {
  struct matrix x, addend;
  const float *w;
  size_t rows, columns, depth;
  float *y;
  size_t y_stride;
};

/* LANES columns of `rows` rows of y. */
INLINE void tile(const struct product *p, size_t row, size_t column, int rows) {
  const int width = LANES / rows;
  const size_t depth = p->depth;
  const float *x = p->x.at + row * p->x.stride;
  for (int part = 0; part < LANES; part += width) {
    const float *w = p->w + (column + part) * depth;
    VECTOR sums[LANES];
    for (int i = 0; i < LANES; i++) sums[i] = SPREAD(0.0f);
    for (size_t k = 0; k < depth; k += LANES) {
      VECTOR weights[LANES];
      for (int c = 0; c < width; c++) weights[c] = LOAD(w + c * depth + k);
      if (row == 0)
        for (int c = 0; c < width; c++) __builtin_prefetch(w + (c + LANES) * depth + k);
      for (int r = 0; r < rows; r++) {
        const VECTOR activations = LOAD(x + r * p->x.stride + k);
        for (int c = 0; c < width; c++)
          sums[r * width + c] = FMA(activations, weights[c], sums[r * width + c]);
      }
    }
    float results[LANES];
    STORE(results, across(sums));
    for (int r = 0; r < rows; r++) {
      float *y = p->y + (row + r) * p->y_stride + column + part;
      memcpy(y, results + r * width, width * sizeof(float));
      if (p->addend.at == NULL) continue;
      const float *addend = p->addend.at + (row + r) * p->addend.stride + column + part;
      for (int c = 0; c < width; c++) y[c] += addend[c];
    }
  }
}

/* y = x wᵀ (+ addend). */
TARGET static void multiply(const struct product *p) {
  for (size_t column = 0; column < p->columns; column += LANES) {
    size_t row = 0;
    for (; row + MOST_ROWS <= p->rows; row += MOST_ROWS) tile(p, row, column, MOST_ROWS);
    for (; row + 2 <= p->rows; row += 2) tile(p, row, column, 2);
    if (row < p->rows) tile(p, row, column, 1);
  }
}

TARGET static void normalize(const float *x, const float *weight, size_t width, float eps, float *y) {
  VECTOR squares = SPREAD(0.0f);
  for (size_t i = 0; i < width; i += LANES) squares = FMA(LOAD(x + i), LOAD(x + i), squares);
  const VECTOR scale = SPREAD(1 / sqrtf(sum_of(squares) / width + eps));
  for (size_t i = 0; i < width; i += LANES) STORE(y + i, LOAD(x + i) * scale * LOAD(weight + i));
}

/* Turns a head by the angles of its position. */
TARGET static void rotate(float *head, const float *cos, const float *sin, size_t half) {
  for (size_t i = 0; i < half; i++) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

/* q · key for LANES keys from `key` on. */
INLINE VECTOR scores_of(const float *query, const float *key, size_t width) {
  VECTOR sums[LANES];
  for (int i = 0; i < LANES; i++) {
    sums[i] = LOAD(query) * LOAD(key + i * width);
    for (size_t d = LANES; d < width; d += LANES) sums[i] = FMA(LOAD(query + d), LOAD(key + i * width + d), sums[i]);
  }
  return across(sums);
}

/* Turns `count` scores into e to them less the largest, and the rest of the last vector into as good as nothing; returns the sum. */
INLINE float exponentials(float *scores, size_t count) {
  for (size_t cell = count; cell % LANES != 0; cell++) scores[cell] = -INFINITY;
  VECTOR most = LOAD(scores);
  for (size_t cell = LANES; cell < count; cell += LANES) most = LARGER(LOAD(scores + cell), most);
  float each[LANES], largest = -INFINITY;
  STORE(each, most);
  for (int i = 0; i < LANES; i++) largest = each[i] > largest ? each[i] : largest;
  VECTOR total = SPREAD(0.0f);
  for (size_t cell = 0; cell < count; cell += LANES) {
    const VECTOR some = exp_of(LOAD(scores + cell) - SPREAD(largest));
    total += some;
    STORE(scores + cell, some);
  }
  return sum_of(total);
}

struct attention {
  const float *query, *keys, *values;
  /* Cells to attend to, and cells that may be read. */
  size_t count, cells;
  /* Room for `count` and a vector more. */
  float *scores;
  float *y;
};

/* Softmax of q · keys, times values. */
INLINE void attend_with(const struct attention *a, size_t width) {
  const VECTOR scale = SPREAD(1 / sqrtf(width));
  for (size_t cell = 0; cell < a->count; cell += LANES) {
    /* At the end of the cache the last keys once more. */
    const size_t first = cell + LANES <= a->cells ? cell : a->cells - LANES;
    STORE(a->scores + first, scores_of(a->query, a->keys + first * width, width) * scale);
  }
  const VECTOR share = SPREAD(1 / exponentials(a->scores, a->count));
  for (size_t d = 0; d < width; d += LANES) {
    const float *values = a->values + d;
    VECTOR sums[4] = {SPREAD(0.0f), SPREAD(0.0f), SPREAD(0.0f), SPREAD(0.0f)};
    size_t cell = 0;
    for (; cell + 4 <= a->count; cell += 4)
      for (int i = 0; i < 4; i++)
        sums[i] = FMA(SPREAD(a->scores[cell + i]), LOAD(values + (cell + i) * width), sums[i]);
    for (; cell < a->count; cell++) sums[0] = FMA(SPREAD(a->scores[cell]), LOAD(values + cell * width), sums[0]);
    STORE(a->y + d, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * share);
  }
}

TARGET static void attend(const struct attention *a, size_t width) {
  if (width == 32) attend_with(a, 32);
  else if (width == 64) attend_with(a, 64);
  else attend_with(a, width);
}

/* Puts a row's new key and value into its cache and attends to all of it. */
TARGET static void attend_row(const struct layer_step *step, size_t row, float *packed, float *scores, float *y) {
  const struct layer_shape *s = &step->shape;
  const size_t width = s->head_dim, half = width / 2, place = step->lengths[row];
  const float *cos = step->in[COS] + place * half, *sin = step->in[SIN] + place * half;
  float *key = packed + query_width(s), *value = key + s->kv_heads * width;
  for (int64_t head = 0; head < s->heads + s->kv_heads; head++) rotate(packed + head * width, cos, sin, half);
  for (int64_t head = 0; head < s->kv_heads; head++) {
    const size_t block = (row * s->kv_heads + head) * step->cells * width;
    float *keys = step->out[KEYS] + block, *values = step->out[VALUES] + block;
    memcpy(keys + place * width, key + head * width, width * sizeof(float));
    memcpy(values + place * width, value + head * width, width * sizeof(float));
    const int64_t group = s->heads / s->kv_heads;
    for (int64_t i = head * group; i < (head + 1) * group; i++)
      attend(&(struct attention){packed + i * width, keys, values, place + 1, step->cells, scores, y + i * width}, width);
  }
}

/* silu(gate) up, in place of the gate. */
TARGET static void activate(float *gate, const float *up, size_t width) {
  for (size_t i = 0; i < width; i += LANES) {
    const VECTOR g = LOAD(gate + i), one = SPREAD(1.0f);
    STORE(gate + i, g / (one + exp_of(-g)) * LOAD(up + i));
  }
}

TARGET void ROWS(const struct layer_step *step, size_t first, size_t end, float *scratch) {
  const struct layer_shape *s = &step->shape;
  const size_t rows = end - first, hidden = s->hidden, inner = s->inner;
  const struct matrix narrow = {scratch, narrow_width(s)}, wide = {scratch + rows * narrow.stride, wide_width(s)};
  const struct matrix none = {NULL, 0}, x = {step->in[X] + first * hidden, hidden};
  float *const a = scratch, *const b = scratch + rows * narrow.stride, *const middle = b + rows * wide.stride;
  float *const scores = middle + rows * hidden;
  for (size_t r = 0; r < rows; r++)
    normalize(x.at + r * hidden, step->in[ATTENTION_NORM], hidden, s->eps, a + r * narrow.stride);
  multiply(&(struct product){narrow, none, step->in[QUERY_KEY_VALUE], rows, packed_width(s), hidden, b, wide.stride});
  for (size_t r = 0; r < rows; r++) attend_row(step, first + r, b + r * wide.stride, scores, a + r * narrow.stride);
  multiply(&(struct product){narrow, x, step->in[OUTPUT], rows, hidden, query_width(s), middle, hidden});
  for (size_t r = 0; r < rows; r++)
    normalize(middle + r * hidden, step->in[MLP_NORM], hidden, s->eps, a + r * narrow.stride);
  multiply(&(struct product){narrow, none, step->in[GATE_UP], rows, 2 * inner, hidden, b, wide.stride});
  for (size_t r = 0; r < rows; r++) activate(b + r * wide.stride, b + r * wide.stride + inner, inner);
  const struct matrix sum = {middle, hidden};
  float *const y = step->out[Y] + first * hidden;
  multiply(&(struct product){wide, sum, step->in[DOWN], rows, hidden, inner, y, hidden});
}
