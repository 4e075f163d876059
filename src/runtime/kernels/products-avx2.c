/* ale::BlockProduct with AVX2, for 4 bits: with 8, sums of two products do not fit the 16 bits in which they are added. */

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "block-products.h"

#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) AVX2
/* Rows of x that share a block's codes in registers, times the halves of a line that do. */
#define MOST_SUMS 4
#define HALF 32
#define HALF_LANES 8
#define MOST_BLOCK 128

INLINE float greatest(__m256 v) {
  float lanes[HALF_LANES], most = 0;
  _mm256_storeu_ps(lanes, v);
  for (int i = 0; i < HALF_LANES; i++) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

INLINE void round_block(const float *x, int64_t block, uint8_t *out) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 most = _mm256_setzero_ps(), strange = _mm256_setzero_ps();
  for (int64_t i = 0; i < block; i += HALF_LANES) {
    const __m256 v = _mm256_loadu_ps(x + i);
    strange = _mm256_or_ps(strange, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    most = _mm256_max_ps(most, _mm256_and_ps(v, magnitude));
  }
  const float scale = _mm256_movemask_ps(strange) ? NAN : greatest(most) / 127;
  const __m256 inverse = _mm256_set1_ps(scale > 0 ? 1 / scale : 0);
  int32_t sum = 0;
  for (int64_t i = 0; i < block; i += HALF_LANES) {
    int32_t codes[HALF_LANES];
    _mm256_storeu_si256((void *)codes, _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), inverse)));
    for (int j = 0; j < HALF_LANES; j++) sum += (int8_t)(out[i + j] = (uint8_t)(codes[j] < -128 ? -128 : codes[j]));
  }
  const int32_t shift = -8 * sum;
  memcpy(out + block, &scale, 4);
  memcpy(out + block + 4, &shift, 4);
}

AVX2 static void round_row(const float *x, const struct shape *s, uint8_t *out) {
  for (int64_t begin = 0; begin < s->k; begin += s->block, out += rounded_bytes(s)) {
    if (s->k - begin >= s->block) {
      round_block(x + begin, s->block, out);
    } else {
      float padded[MOST_BLOCK] = {0};
      memcpy(padded, x + begin, (s->k - begin) * sizeof *x);
      round_block(padded, s->block, out);
    }
  }
}

INLINE __m256i four_of(const uint8_t *x) {
  int32_t bits;
  memcpy(&bits, x, 4);
  return _mm256_set1_epi32(bits);
}

/*
 * `halves` times eight columns of `rows` rows of y; w is moved on by half a line for the second half alone. Eight sums of two
 * products of a code below 16 and one of at most 128 fit into 16 bits.
 */
INLINE void tile(const uint8_t *w, const uint8_t *x, size_t x_stride, size_t blocks, int rows, int halves, int parts,
                 __m256 *sums) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const int count = rows * halves;
  for (int i = 0; i < count; i++) sums[i] = _mm256_setzero_ps();
  for (size_t b = 0; b < blocks; b++, x += parts * PART + 8) {
    for (int i = 0; i < 1 + parts * VECTORS / 2; i++) _mm_prefetch((const char *)w + AHEAD + LINE * i, _MM_HINT_T0);
    const uint8_t *scales = w;
    __m256i dots[MOST_SUMS];
    for (int i = 0; i < count; i++) dots[i] = four_of(x + i / halves * x_stride + parts * PART + 4);
    w += LINE;
    for (int part = 0; part < parts; part++, w += PART * LANES / 2) {
      __m256i pairs[MOST_SUMS];
      for (int i = 0; i < count; i++) pairs[i] = _mm256_setzero_si256();
      for (int v = 0; v < VECTORS; v += 2)
        for (int half = 0; half < halves; half++) {
          const __m256i both = _mm256_loadu_si256((const void *)(w + LINE * (v / 2) + HALF * half));
          const __m256i even = _mm256_and_si256(both, low), odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
          for (int r = 0; r < rows; r++) {
            const uint8_t *four = x + r * x_stride + part * PART + 4 * v;
            __m256i *sum = &pairs[r * halves + half];
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(even, four_of(four)));
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(odd, four_of(four + 4)));
          }
        }
      for (int i = 0; i < count; i++) dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(pairs[i], ones));
    }
    for (int i = 0; i < count; i++) {
      const __m256 own = _mm256_castsi256_ps(four_of(x + i / halves * x_stride + parts * PART));
      const __m256 scale = _mm256_mul_ps(_mm256_loadu_ps((const float *)(scales + HALF * (i % halves))), own);
      sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i]), scale, sums[i]);
    }
  }
}

INLINE void store(const struct product *p, size_t row, size_t column, __m256 sum) {
  const int64_t left = p->shape.n - (int64_t)column;
  if (left <= 0) return;
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(left > HALF_LANES ? HALF_LANES : left), lanes);
  if (p->bias != NULL) sum = _mm256_add_ps(sum, _mm256_maskload_ps(p->bias + column, there));
  _mm256_maskstore_ps(p->y + row * p->shape.n + column, there, sum);
}

INLINE void columns_of_rows(const struct product *p, size_t group, size_t row, int rows, int halves, int parts) {
  const size_t blocks = blocks_of(&p->shape), stride = rounded_row_bytes(&p->shape);
  const uint8_t *w = p->w + group * blocks * block_bytes(&p->shape);
  for (int first = 0; first < 2; first += halves) {
    __m256 sums[MOST_SUMS];
    tile(w + HALF * first, p->rounded + row * stride, stride, blocks, rows, halves, parts, sums);
    for (int i = 0; i < rows * halves; i++)
      store(p, row + i / halves, group * LANES + HALF_LANES * (first + i % halves), sums[i]);
  }
}

INLINE void columns(const struct product *p, size_t group, int parts) {
  size_t row = 0;
  for (; row + 4 <= p->rows; row += 4) columns_of_rows(p, group, row, 4, 1, parts);
  for (; row + 2 <= p->rows; row += 2) columns_of_rows(p, group, row, 2, 2, parts);
  for (; row < p->rows; row++) columns_of_rows(p, group, row, 1, 2, parts);
}

AVX2 static void multiply(const struct product *p, size_t group) {
  if (p->shape.block == PART) columns(p, group, 1);
  else columns(p, group, 4);
}

const struct instructions avx2_instructions = {.round_row = round_row, .multiply = multiply};
