/*
 * Products with block-wise quantised matrices as an operator of ONNX Runtime: ale::BlockProduct, for processors with AVX-512 VNNI.
 *
 *   y [rows, n] = x [rows, k] Wᵀ (+ bias [n]),  W [n, k] in 4 or 8 bits with one float32 scale per block of 32 or 128 along k
 *
 * As MatMulNBits with accuracy level 4 it rounds x to int8 in the blocks of the weights, adds up a block's products in whole
 * numbers and blocks in float32. A row's result does not depend on the other rows. What differs is the memory: sixteen rows of W
 * lie side by side, block by block, each block's scales in front of its codes, so that everything is read once and in one
 * stream, and the zero point costs nothing to read.
 */

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) VNNI

/* Columns of y that are computed together, one per 32-bit lane. */
#define LANES 16
/* Weights of a column that eight vectors hold, four in each lane. */
#define PART 32
#define VECTORS 8
#define LINE 64
/* How far ahead of its use memory is asked for. Processors stop reading ahead at the end of each page of 4096 bytes. */
#define AHEAD 4096
/* Rows of x that share a block's codes in registers. */
#define MOST_ROWS 8
/* Multiplications below which another thread is not worth waking, and the most pieces of a product. */
#define LEAST_WORK 131072.0
#define MOST_PIECES 256
/* Rows of x that one thread rounds at a time. */
#define ROUNDED_AT_ONCE 8

struct shape {
  int64_t n, k, bits, block;
};

static size_t blocks_of(const struct shape *s) { return (s->k + s->block - 1) / s->block; }
static size_t groups_of(const struct shape *s) { return (s->n + LANES - 1) / LANES; }
/* Bytes of a block of sixteen columns: scales, codes. */
static size_t block_bytes(const struct shape *s) { return LANES * sizeof(float) + LANES * s->block * s->bits / 8; }
/* Bytes of a rounded block of x: codes, float32 scale, and what the zero point adds to a sum of products. */
static size_t rounded_bytes(const struct shape *s) { return s->block + 8; }

EXPORT int ale_products_supported(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

EXPORT int64_t ale_products_packed_bytes(int64_t n, int64_t k, int64_t bits, int64_t block) {
  struct shape s = {n, k, bits, block};
  return groups_of(&s) * blocks_of(&s) * block_bytes(&s);
}

/*
 * From codes [n, blocks, block · bits / 8], the even element in the low half of a byte, and scales [n, blocks]. With 4 bits a packed
 * vector holds weights 8i … 8i + 3 of its part in low halves and 8i + 4 … 8i + 7 in high ones. Columns that are missing in the
 * last group get scale 0.
 */
EXPORT void ale_products_pack(const uint8_t *codes, const float *scales, int64_t n, int64_t k, int64_t bits, int64_t block,
                              uint8_t *out) {
  struct shape s = {n, k, bits, block};
  size_t blocks = blocks_of(&s), bytes = block * bits / 8;
  for (size_t group = 0; group < groups_of(&s); group++)
    for (size_t b = 0; b < blocks; b++, out += block_bytes(&s)) {
      memset(out, 0, block_bytes(&s));
      for (size_t lane = 0; lane < LANES && group * LANES + lane < (size_t)n; lane++) {
        size_t at = (group * LANES + lane) * blocks + b;
        memcpy(out + 4 * lane, scales + at, 4);
        const uint8_t *from = codes + at * bytes;
        uint8_t *to = out + LINE + 4 * lane;
        for (int64_t i = 0; i < block; i += 4) {
          uint8_t *four = to + (bits == 4 ? i / 8 : i / 4) * LINE;
          for (int64_t j = 0; j < 4; j++) {
            if (bits == 8) four[j] = from[i + j];
            else four[j] |= (from[(i + j) / 2] >> 4 * ((i + j) & 1) & 15) << (i & 4);
          }
        }
      }
    }
}

/* Rounds a row of k numbers. A block that holds NaN gets the scale NaN, and one with an infinity that as its scale. */
INLINE void round_row(const float *x, const struct shape *s, uint8_t *out) {
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

struct product {
  struct shape shape;
  const uint8_t *w;
  const float *x, *bias;
  float *y;
  uint8_t *rounded;
  size_t rows, pieces;
};

INLINE void columns_of_rows(const struct product *p, size_t group, size_t row, int rows, int bits, int parts) {
  const size_t blocks = blocks_of(&p->shape), stride = blocks * rounded_bytes(&p->shape);
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

VNNI static void multiply_piece(void *argument, size_t piece) {
  const struct product *p = argument;
  const size_t groups = groups_of(&p->shape);
  const size_t begin = groups * piece / p->pieces, end = groups * (piece + 1) / p->pieces;
  for (size_t group = begin; group < end; group++) {
    if (p->shape.bits == 8) columns(p, group, 8, 1);
    else if (p->shape.block == PART) columns(p, group, 4, 1);
    else columns(p, group, 4, 4);
  }
}

VNNI static void round_piece(void *argument, size_t piece) {
  const struct product *p = argument;
  const size_t stride = blocks_of(&p->shape) * rounded_bytes(&p->shape);
  for (size_t row = piece * ROUNDED_AT_ONCE; row < (piece + 1) * ROUNDED_AT_ONCE && row < p->rows; row++)
    round_row(p->x + row * p->shape.k, &p->shape, p->rounded + row * stride);
}

/*
 * The operator. ONNX Runtime's header is not in its npm package; its function table only grows at its end, so that places in it
 * stay right, and of OrtCustomOp it reads what the version at its head promises.
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/include/onnxruntime/core/session/onnxruntime_c_api.h
 */
typedef void *status;
struct table {
  status (*create_status)(int code, const char *message);
  void *unused_1[25];
  status (*create_domain)(const char *name, void **domain);
  status (*add_to_domain)(void *domain, const void *operator);
  void *unused_2[23];
  status (*data_of)(const void *value, void **data);
  void *unused_3[12];
  status (*element_count)(const void *info, size_t *count);
  status (*shape_of)(const void *value, void **info);
  void *unused_4[20];
  status (*int_attribute)(const void *info, const char *name, int64_t *value);
  void *unused_5[3];
  status (*input_of)(const void *context, size_t index, const void **value);
  status (*output_of)(void *context, size_t index, const int64_t *shape, size_t dimensions, void **value);
  void *unused_6[1];
  void (*release_status)(status);
  void *unused_7[5];
  void (*release_shape)(void *info);
  void *unused_8[174];
  status (*parallel_for)(const void *context, void (*work)(void *, size_t), size_t count, size_t batches, void *argument);
};
_Static_assert(offsetof(struct table, create_domain) == 26 * sizeof(void *), "CreateCustomOpDomain");
_Static_assert(offsetof(struct table, data_of) == 51 * sizeof(void *), "GetTensorMutableData");
_Static_assert(offsetof(struct table, element_count) == 64 * sizeof(void *), "GetTensorShapeElementCount");
_Static_assert(offsetof(struct table, int_attribute) == 86 * sizeof(void *), "KernelInfoGetAttribute_int64");
_Static_assert(offsetof(struct table, input_of) == 90 * sizeof(void *), "KernelContext_GetInput");
_Static_assert(offsetof(struct table, release_status) == 93 * sizeof(void *), "ReleaseStatus");
_Static_assert(offsetof(struct table, release_shape) == 99 * sizeof(void *), "ReleaseTensorTypeAndShapeInfo");
_Static_assert(offsetof(struct table, parallel_for) == 274 * sizeof(void *), "KernelContext_ParallelFor");

static const struct table *ort;

enum { FAIL = 1, FLOAT = 1, UINT8 = 2, REQUIRED = 0, OPTIONAL = 1 };
enum { X, W, BIAS, INPUTS };

static status create(const void *self, const void *api, const void *info, void **kernel) {
  (void)self, (void)api;
  struct shape *s = malloc(sizeof *s);
  if (s == NULL) return ort->create_status(FAIL, "BlockProduct: out of memory");
  status error = ort->int_attribute(info, "N", &s->n);
  if (error == NULL) error = ort->int_attribute(info, "K", &s->k);
  if (error == NULL) error = ort->int_attribute(info, "bits", &s->bits);
  if (error == NULL) error = ort->int_attribute(info, "block_size", &s->block);
  if (error == NULL && !((s->bits == 4 && (s->block == 32 || s->block == 128)) || (s->bits == 8 && s->block == 32)))
    error = ort->create_status(FAIL, "BlockProduct: blocks of this size and number of bits are not known");
  if (error == NULL) *kernel = s;
  else free(s);
  return error;
}

/* The elements of an input; NULL, and no error, for one that is left out. */
static status elements_of(void *context, size_t index, void **data, size_t *count) {
  const void *value = NULL;
  void *info = NULL;
  *data = NULL;
  status error = ort->input_of(context, index, &value);
  if (error != NULL || value == NULL) return error;
  if ((error = ort->shape_of(value, &info)) != NULL) return error;
  error = ort->element_count(info, count);
  ort->release_shape(info);
  return error != NULL ? error : ort->data_of(value, data);
}

static size_t pieces_for(const struct product *p) {
  size_t pieces = (size_t)((double)p->rows * p->shape.n * p->shape.k / LEAST_WORK) + 1, groups = groups_of(&p->shape);
  if (pieces > MOST_PIECES) pieces = MOST_PIECES;
  return pieces < groups ? pieces : groups;
}

static status compute(void *kernel, void *context) {
  struct product p = {.shape = *(struct shape *)kernel};
  void *x, *w, *bias, *y, *out;
  size_t numbers = 0, bytes = 0, biases = 0;
  status error = elements_of(context, X, &x, &numbers);
  if (error == NULL) error = elements_of(context, W, &w, &bytes);
  if (error == NULL) error = elements_of(context, BIAS, &bias, &biases);
  if (error != NULL) return error;
  const size_t blocks = blocks_of(&p.shape);
  p.rows = numbers / p.shape.k;
  if (numbers != p.rows * p.shape.k || bytes != groups_of(&p.shape) * blocks * block_bytes(&p.shape) ||
      (bias != NULL && biases != (size_t)p.shape.n))
    return ort->create_status(FAIL, "BlockProduct: the operands do not have the shapes that N and K ask for");
  const int64_t shape[2] = {p.rows, p.shape.n};
  if ((error = ort->output_of(context, 0, shape, 2, &out)) != NULL || p.rows == 0) return error;
  if ((error = ort->data_of(out, &y)) != NULL) return error;
  p.x = x, p.w = w, p.bias = bias, p.y = y;
  p.pieces = pieces_for(&p);
  p.rounded = malloc(p.rows * blocks * rounded_bytes(&p.shape));
  if (p.rounded == NULL) return ort->create_status(FAIL, "BlockProduct: out of memory");
  const size_t runs = (p.rows + ROUNDED_AT_ONCE - 1) / ROUNDED_AT_ONCE;
  if (runs == 1) round_piece(&p, 0);
  else error = ort->parallel_for(context, round_piece, runs, 0, &p);
  if (error == NULL && p.pieces == 1) multiply_piece(&p, 0);
  else if (error == NULL) error = ort->parallel_for(context, multiply_piece, p.pieces, 0, &p);
  free(p.rounded);
  return error;
}

static void destroy(void *kernel) { free(kernel); }
static const char *name(const void *self) { return (void)self, "BlockProduct"; }
static const char *provider(const void *self) { return (void)self, "CPUExecutionProvider"; }
static int input_type(const void *self, size_t index) { return (void)self, index == W ? UINT8 : FLOAT; }
static size_t input_count(const void *self) { return (void)self, INPUTS; }
static int output_type(const void *self, size_t index) { return (void)self, (void)index, FLOAT; }
static size_t output_count(const void *self) { return (void)self, 1; }
static int input_kind(const void *self, size_t index) { return (void)self, index == BIAS ? OPTIONAL : REQUIRED; }
static int output_kind(const void *self, size_t index) { return (void)self, (void)index, REQUIRED; }
static int memory_type(const void *self, size_t index) { return (void)self, (void)index, 0; }
static int at_least_one(const void *self) { return (void)self, 1; }

/* OrtCustomOp of version 16, the first whose functions return errors. */
static const struct {
  uint32_t version;
  void *create_1, *name, *provider, *input_type, *input_count, *output_type, *output_count, *compute_1, *destroy;
  void *input_kind, *output_kind, *memory_type;
  void *input_arity, *input_alike, *output_arity, *output_alike;
  void *create, *compute;
  void *unused[8];
} block_product = {
    .version = 16,
    .name = name,
    .provider = provider,
    .input_type = input_type,
    .input_count = input_count,
    .output_type = output_type,
    .output_count = output_count,
    .destroy = destroy,
    .input_kind = input_kind,
    .output_kind = output_kind,
    .memory_type = memory_type,
    .input_arity = at_least_one,
    .input_alike = at_least_one,
    .output_arity = at_least_one,
    .output_alike = at_least_one,
    .create = create,
    .compute = compute,
};

/* The domain "ale" with the operator in it, for the options of sessions; NULL when ONNX Runtime refuses. */
EXPORT void *ale_products_domain(const struct table *api) {
  void *domain = NULL;
  ort = api;
  status error = ort->create_domain("ale", &domain);
  if (error == NULL) error = ort->add_to_domain(domain, &block_product);
  if (error == NULL) return domain;
  ort->release_status(error);
  return NULL;
}
