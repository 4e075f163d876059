/*
 * An AdamW update as an operator of ONNX Runtime: ale::AdamW, everything read once and written once.
 *
 *   m2 = decay1 m + gain1 g;  v2 = decay2 v + gain2 g²;  p2 = keep p − stepSize m2 / (√v2 + eps)
 *
 * Each of the seven scalars is an input, so that updates differ in memory alone. Products and sums are rounded one by one, in
 * the order of the plain graph (`adamWGraph` in src/trainer/optimizer.ts), so that all sets of instructions give the same bits;
 * the library is compiled without contraction. p2, m2 and v2 may be the memory of p, m and v.
 */

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>

#include "ort.h"

enum { P, M, V, G, DECAY1, GAIN1, DECAY2, GAIN2, STEP_SIZE, EPS, KEEP, INPUTS };
enum { P2, M2, V2, OUTPUTS };
/* Values of the attribute `instructions`. */
enum { BASELINE = 0, WITH_AVX2 = 2, WITH_AVX512 = 512 };

struct arrays {
  const float *in[INPUTS];
  float *out[OUTPUTS];
  size_t count;
};

#define INLINE static inline __attribute__((always_inline))

INLINE void update_one(const struct arrays *a, size_t i) {
  const float g = a->in[G][i];
  const float m = a->in[M][i] * *a->in[DECAY1] + g * *a->in[GAIN1];
  const float v = a->in[V][i] * *a->in[DECAY2] + g * g * *a->in[GAIN2];
  const float p = a->in[P][i] * *a->in[KEEP] - m * *a->in[STEP_SIZE] / (sqrtf(v) + *a->in[EPS]);
  a->out[M2][i] = m, a->out[V2][i] = v, a->out[P2][i] = p;
}

/* Whether all outputs begin at a multiple of so many bytes, as stores past the caches need it. */
INLINE int aligned(const struct arrays *a, size_t bytes) {
  return (((uintptr_t)a->out[P2] | (uintptr_t)a->out[M2] | (uintptr_t)a->out[V2]) & (bytes - 1)) == 0;
}

/* An update with vectors of one kind. GCC and clang compute with them as with numbers, element by element. */
#define UPDATE(NAME, TARGET, VECTOR, SPREAD, LOAD, ROOT, STORE, STREAM)                             \
  TARGET static void NAME(const struct arrays *a, int past_caches) {                                \
    const size_t lanes = sizeof(VECTOR) / sizeof(float);                                            \
    const VECTOR decay1 = SPREAD(*a->in[DECAY1]), gain1 = SPREAD(*a->in[GAIN1]);                    \
    const VECTOR decay2 = SPREAD(*a->in[DECAY2]), gain2 = SPREAD(*a->in[GAIN2]);                    \
    const VECTOR step = SPREAD(*a->in[STEP_SIZE]), eps = SPREAD(*a->in[EPS]);                       \
    const VECTOR keep = SPREAD(*a->in[KEEP]);                                                       \
    const int stream = past_caches && aligned(a, sizeof(VECTOR));                                   \
    size_t i = 0;                                                                                   \
    for (; i + lanes <= a->count; i += lanes) {                                                     \
      const VECTOR g = LOAD(a->in[G] + i);                                                          \
      const VECTOR m = LOAD(a->in[M] + i) * decay1 + g * gain1;                                     \
      const VECTOR v = LOAD(a->in[V] + i) * decay2 + g * g * gain2;                                 \
      const VECTOR p = LOAD(a->in[P] + i) * keep - m * step / (ROOT(v) + eps);                      \
      if (stream) STREAM(a->out[M2] + i, m), STREAM(a->out[V2] + i, v), STREAM(a->out[P2] + i, p);  \
      else STORE(a->out[M2] + i, m), STORE(a->out[V2] + i, v), STORE(a->out[P2] + i, p);            \
    }                                                                                               \
    for (; i < a->count; i++) update_one(a, i);                                                     \
    /* Other threads are to see what went past the caches. */                                       \
    if (stream) _mm_sfence();                                                                       \
  }

UPDATE(update_128, , __m128, _mm_set1_ps, _mm_loadu_ps, _mm_sqrt_ps, _mm_storeu_ps, _mm_stream_ps)
UPDATE(update_256, __attribute__((target("avx2"))), __m256, _mm256_set1_ps, _mm256_loadu_ps, _mm256_sqrt_ps,
       _mm256_storeu_ps, _mm256_stream_ps)
UPDATE(update_512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps, _mm512_loadu_ps, _mm512_sqrt_ps,
       _mm512_storeu_ps, _mm512_stream_ps)

/* The best value of `instructions` that the processor can do. */
EXPORT int ale_adamw_instructions(void) {
  if (__builtin_cpu_supports("avx512f")) return WITH_AVX512;
  return __builtin_cpu_supports("avx2") ? WITH_AVX2 : BASELINE;
}

struct kernel {
  void (*update)(const struct arrays *, int past_caches);
  int past_caches;
};

static status create(const void *self, const void *api, const void *info, void **out) {
  (void)self, (void)api;
  int64_t instructions = BASELINE, past_caches = 0;
  status error = ort->int_attribute(info, "instructions", &instructions);
  if (error == NULL) error = ort->int_attribute(info, "past_caches", &past_caches);
  if (error != NULL) return error;
  if (instructions > ale_adamw_instructions())
    return ort->create_status(FAIL, "AdamW: this processor lacks the instructions");
  struct kernel *kernel = malloc(sizeof *kernel);
  if (kernel == NULL) return ort->create_status(FAIL, "AdamW: out of memory");
  kernel->update = instructions == WITH_AVX512 ? update_512 : instructions == WITH_AVX2 ? update_256 : update_128;
  kernel->past_caches = past_caches != 0;
  *out = kernel;
  return NULL;
}

static status compute(void *state, void *context) {
  const struct kernel *kernel = state;
  struct arrays arrays = {.count = 0};
  for (size_t i = 0; i < INPUTS; i++) {
    void *data;
    size_t count = 0;
    status error = elements_of(context, i, &data, &count);
    if (error != NULL) return error;
    if (i == P) arrays.count = count;
    if (count != (i < DECAY1 ? arrays.count : 1))
      return ort->create_status(FAIL, "AdamW: p, m, v and g are to be of one length, the others single numbers");
    arrays.in[i] = data;
  }
  const int64_t shape[1] = {arrays.count};
  for (size_t i = 0; i < OUTPUTS; i++) {
    void *value, *data;
    status error = ort->output_of(context, i, shape, 1, &value);
    if (error == NULL) error = ort->data_of(value, &data);
    if (error != NULL) return error;
    arrays.out[i] = data;
  }
  kernel->update(&arrays, kernel->past_caches);
  return NULL;
}

static const char *name(const void *self) { return (void)self, "AdamW"; }
static size_t input_count(const void *self) { return (void)self, INPUTS; }
static size_t output_count(const void *self) { return (void)self, OUTPUTS; }

const struct operator adamw = {
    COMMON_ANSWERS,
    .name = name,
    .input_type = always_float,
    .input_count = input_count,
    .output_count = output_count,
    .input_kind = always_required,
    .create = create,
    .compute = compute,
};
