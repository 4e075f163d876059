/* ale::BlockProduct with AVX-512 VNNI. */

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "block-products.h"

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) VNNI
/* Rows of x that share a block's codes in registers. */
#define MOST_ROWS 8

VNNI static void round_row(const float *x, const struct shape *s, uint8_t *out) {
  const int32_t zero_point = s->bits == 4 ? 8 : 128;
  const __m512i signless = _mm512_set1_epi32(0x7fffffff);
  for (int64_t begin = 0; begin < s->k; begin += s->block, out += rounded_bytes(s)) {
    __m512 most = _mm512_setzero_ps();
    __mmask16 strange = 0;
    for (int64_t i = 0; i < s->block; i += 16) {
      int64_t left = s->k - begin - i;
      __mmask16 there = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
      __m512 v = _mm512_maskz_loadu_ps(there, x + begin + i);
      strange |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
      most = _mm512_max_ps(most, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), signless)));
    }
    float scale = strange ? NAN : _mm512_reduce_max_ps(most) / 127;
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < s->block; i += 16) {
      int64_t left = s->k - begin - i;
      __mmask16 there = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
      __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(there, x + begin + i), inverse));
      sum = _mm512_add_epi32(sum, code);
      _mm_storeu_si128((void *)(out + i), _mm512_cvtsepi32_epi8(code));
    }
    int32_t shift = -zero_point * _mm512_reduce_add_epi32(sum);
    memcpy(out + s->block, &scale, 4);
    memcpy(out + s->block + 4, &shift, 4);
  }
}

INLINE __m512i four_of(const uint8_t *x) {
  int32_t bits;
  memcpy(&bits, x, 4);
  return _mm512_set1_epi32(bits);
}

/* Sixteen columns of `rows` rows of y. All arguments but the pointers are constants where this is called. */
INLINE void tile(const uint8_t *w, const uint8_t *x, size_t x_stride, size_t blocks, int rows, int bits, int parts,
                 __m512 *sums) {
  const __m512i low = _mm512_set1_epi8(15);
  const size_t lines = 1 + (size_t)parts * VECTORS * bits / 8;
  for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; b++, x += parts * PART + 8) {
    for (size_t i = 0; i < lines; i++) _mm_prefetch((const char *)w + AHEAD + LINE * i, _MM_HINT_T0);
    const __m512 scales = _mm512_loadu_ps(w);
    __m512i dots[MOST_ROWS];
    for (int r = 0; r < rows; r++) dots[r] = four_of(x + r * x_stride + parts * PART + 4);
    w += LINE;
    for (int part = 0; part < parts; part++, w += PART * LANES * bits / 8) {
      __m512i codes[VECTORS];
      for (int i = 0; i < VECTORS; i++) {
        if (bits == 8) {
          codes[i] = _mm512_loadu_si512(w + LINE * i);
        } else {
          __m512i both = _mm512_loadu_si512(w + LINE * (i / 2));
          codes[i] = _mm512_and_si512(i & 1 ? _mm512_srli_epi16(both, 4) : both, low);
        }
      }
      for (int r = 0; r < rows; r++)
        for (int i = 0; i < VECTORS; i++)
          dots[r] = _mm512_dpbusd_epi32(dots[r], codes[i], four_of(x + r * x_stride + part * PART + 4 * i));
    }
    for (int r = 0; r < rows; r++) {
      const __m512 scale = _mm512_mul_ps(scales, _mm512_castsi512_ps(four_of(x + r * x_stride + parts * PART)));
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
    }
  }
}

INLINE void columns_of_rows(const struct product *p, size_t group, size_t row, int rows, int bits, int parts) {
  const size_t blocks = blocks_of(&p->shape), stride = rounded_row_bytes(&p->shape);
  const size_t column = group * LANES, left = p->shape.n - column;
  const __mmask16 there = left >= LANES ? 0xffff : (1u << left) - 1;
  __m512 sums[MOST_ROWS];
  tile(p->w + group * blocks * block_bytes(&p->shape), p->rounded + row * stride, stride, blocks, rows, bits, parts, sums);
  if (p->bias != NULL) {
    const __m512 bias = _mm512_maskz_loadu_ps(there, p->bias + column);
    for (int r = 0; r < rows; r++) sums[r] = _mm512_add_ps(sums[r], bias);
  }
  for (int r = 0; r < rows; r++) _mm512_mask_storeu_ps(p->y + (row + r) * p->shape.n + column, there, sums[r]);
}

INLINE void columns(const struct product *p, size_t group, int bits, int parts) {
  size_t row = 0;
  for (; row + 8 <= p->rows; row += 8) columns_of_rows(p, group, row, 8, bits, parts);
  for (; row + 4 <= p->rows; row += 4) columns_of_rows(p, group, row, 4, bits, parts);
  for (; row + 2 <= p->rows; row += 2) columns_of_rows(p, group, row, 2, bits, parts);
  for (; row < p->rows; row++) columns_of_rows(p, group, row, 1, bits, parts);
}

VNNI static void multiply(const struct product *p, size_t group) {
  if (p->shape.bits == 8) columns(p, group, 8, 1);
  else if (p->shape.block == PART) columns(p, group, 4, 1);
  else columns(p, group, 4, 4);
}

const struct instructions vnni_instructions = {.round_row = round_row, .multiply = multiply};
