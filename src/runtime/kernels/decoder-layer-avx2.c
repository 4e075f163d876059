/* ale::DecoderLayer with AVX2 and FMA. */

#include <immintrin.h>
#include <stdint.h>

#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define VECTOR __m256
typedef int32_t indices __attribute__((vector_size(32)));
#define INDICES indices
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SPREAD(a) _mm256_set1_ps(a)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, a) _mm256_storeu_ps(p, a)
#define ROUND(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define WHOLE(a) ((indices)_mm256_cvtps_epi32(a))
#define LARGER(a, b) _mm256_max_ps(a, b)
#define SMALLER(a, b) _mm256_min_ps(a, b)
#define ROWS layer_rows_avx2
#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE __m256 across(__m256 *sums) {
  for (int i = 0; i < 8; i += 2)
    sums[i] = _mm256_unpacklo_ps(sums[i], sums[i + 1]) + _mm256_unpackhi_ps(sums[i], sums[i + 1]);
  for (int i = 0; i < 8; i += 4)
    sums[i] = _mm256_shuffle_ps(sums[i], sums[i + 2], 0x44) + _mm256_shuffle_ps(sums[i], sums[i + 2], 0xee);
  return _mm256_permute2f128_ps(sums[0], sums[4], 0x20) + _mm256_permute2f128_ps(sums[0], sums[4], 0x31);
}

#include "decoder-layer-rows.h"
