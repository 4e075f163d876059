/* ale::DecoderLayer with AVX-512. */

#include <immintrin.h>
#include <stdint.h>

#define TARGET __attribute__((target("avx512f")))
#define LANES 16
#define VECTOR __m512
typedef int32_t indices __attribute__((vector_size(64)));
#define INDICES indices
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SPREAD(a) _mm512_set1_ps(a)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, a) _mm512_storeu_ps(p, a)
#define ROUND(a) _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define WHOLE(a) ((indices)_mm512_cvtps_epi32(a))
#define LARGER(a, b) _mm512_max_ps(a, b)
#define SMALLER(a, b) _mm512_min_ps(a, b)
#define ROWS layer_rows_avx512
#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE __m512 across(__m512 *sums) {
  for (int i = 0; i < 16; i += 2)
    sums[i] = _mm512_unpacklo_ps(sums[i], sums[i + 1]) + _mm512_unpackhi_ps(sums[i], sums[i + 1]);
  for (int i = 0; i < 16; i += 4)
    sums[i] = _mm512_shuffle_ps(sums[i], sums[i + 2], 0x44) + _mm512_shuffle_ps(sums[i], sums[i + 2], 0xee);
  for (int i = 0; i < 16; i += 8)
    sums[i] = _mm512_shuffle_f32x4(sums[i], sums[i + 4], 0x88) + _mm512_shuffle_f32x4(sums[i], sums[i + 4], 0xdd);
  return _mm512_shuffle_f32x4(sums[0], sums[8], 0x88) + _mm512_shuffle_f32x4(sums[0], sums[8], 0xdd);
}

#include "decoder-layer-rows.h"
