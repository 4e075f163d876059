/*
 * Products with block-wise quantised matrices as an operator of ONNX Runtime: ale::BlockProduct, for processors with AVX-512
 * VNNI and, of 4 bits, with AVX2.
 *
 *   y [rows, n] = x [rows, k] Wᵀ (+ bias [n]),  W [n, k] in 4 or 8 bits with one float32 scale per block of 32 or 128 along k
 *
 * As MatMulNBits with accuracy level 4 it rounds x to int8 in the blocks of the weights, adds up a block's products in whole
 * numbers and blocks in float32. A row's result does not depend on the other rows. What differs is the memory: sixteen rows of W
 * lie side by side, block by block, each block's scales in front of its codes, so that everything is read once and in one
 * stream, and the zero point costs nothing to read.
 */

#include <stdlib.h>
#include <string.h>

#include "block-products.h"

#define EXPORT __attribute__((visibility("default")))

/* Multiplications below which another thread is not worth waking, and the most pieces of a product. */
#define LEAST_WORK 131072.0
#define MOST_PIECES 256
/* Rows of x that one thread rounds at a time. */
#define ROUNDED_AT_ONCE 8
/* Values of the attribute `instructions`. */
enum { NONE = 0, WITH_AVX2 = 2, WITH_VNNI = 512 };

/* The best value of `instructions` that the processor can do. */
EXPORT int ale_products_instructions(void) {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    return WITH_VNNI;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? WITH_AVX2 : NONE;
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

struct kernel {
  struct shape shape;
  const struct instructions *instructions;
};

struct work {
  struct product product;
  const struct instructions *instructions;
};

static void multiply_piece(void *argument, size_t piece) {
  const struct work *work = argument;
  const struct product *p = &work->product;
  const size_t groups = groups_of(&p->shape), end = groups * (piece + 1) / p->pieces;
  for (size_t group = groups * piece / p->pieces; group < end; group++) work->instructions->multiply(p, group);
}

static void round_piece(void *argument, size_t piece) {
  const struct work *work = argument;
  const struct product *p = &work->product;
  for (size_t row = piece * ROUNDED_AT_ONCE; row < (piece + 1) * ROUNDED_AT_ONCE && row < p->rows; row++)
    work->instructions->round_row(p->x + row * p->shape.k, &p->shape, p->rounded + row * rounded_row_bytes(&p->shape));
}

enum { FAIL = 1, FLOAT = 1, UINT8 = 2, REQUIRED = 0, OPTIONAL = 1 };
enum { X, W, BIAS, INPUTS };

static status create(const void *self, const void *api, const void *info, void **out) {
  (void)self, (void)api;
  struct kernel *kernel = malloc(sizeof *kernel);
  if (kernel == NULL) return ort->create_status(FAIL, "BlockProduct: out of memory");
  struct shape *s = &kernel->shape;
  int64_t instructions = NONE;
  status error = ort->int_attribute(info, "N", &s->n);
  if (error == NULL) error = ort->int_attribute(info, "K", &s->k);
  if (error == NULL) error = ort->int_attribute(info, "bits", &s->bits);
  if (error == NULL) error = ort->int_attribute(info, "block_size", &s->block);
  if (error == NULL) error = ort->int_attribute(info, "instructions", &instructions);
  kernel->instructions = instructions == WITH_VNNI ? &vnni_instructions : &avx2_instructions;
  if (error == NULL && (instructions == NONE || instructions > ale_products_instructions()))
    error = ort->create_status(FAIL, "BlockProduct: this processor lacks the instructions");
  int known = s->bits == 4 ? s->block == 32 || s->block == 128
                           : s->bits == 8 && s->block == 32 && instructions == WITH_VNNI;
  if (error == NULL && !known)
    error = ort->create_status(FAIL, "BlockProduct: blocks of this size and number of bits are not known");
  if (error == NULL) *out = kernel;
  else free(kernel);
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

static status compute(void *state, void *context) {
  const struct kernel *kernel = state;
  struct work work = {.product.shape = kernel->shape, .instructions = kernel->instructions};
  struct product *p = &work.product;
  void *x, *w, *bias, *y, *out;
  size_t numbers = 0, bytes = 0, biases = 0;
  status error = elements_of(context, X, &x, &numbers);
  if (error == NULL) error = elements_of(context, W, &w, &bytes);
  if (error == NULL) error = elements_of(context, BIAS, &bias, &biases);
  if (error != NULL) return error;
  p->rows = numbers / p->shape.k;
  if (numbers != p->rows * p->shape.k || bytes != groups_of(&p->shape) * blocks_of(&p->shape) * block_bytes(&p->shape) ||
      (bias != NULL && biases != (size_t)p->shape.n))
    return ort->create_status(FAIL, "BlockProduct: the operands do not have the shapes that N and K ask for");
  const int64_t shape[2] = {p->rows, p->shape.n};
  if ((error = ort->output_of(context, 0, shape, 2, &out)) != NULL || p->rows == 0) return error;
  if ((error = ort->data_of(out, &y)) != NULL) return error;
  p->x = x, p->w = w, p->bias = bias, p->y = y;
  p->pieces = pieces_for(p);
  p->rounded = malloc(p->rows * rounded_row_bytes(&p->shape));
  if (p->rounded == NULL) return ort->create_status(FAIL, "BlockProduct: out of memory");
  const size_t runs = (p->rows + ROUNDED_AT_ONCE - 1) / ROUNDED_AT_ONCE;
  if (runs == 1) round_piece(&work, 0);
  else error = ort->parallel_for(context, round_piece, runs, 0, &work);
  if (error == NULL && p->pieces == 1) multiply_piece(&work, 0);
  else if (error == NULL) error = ort->parallel_for(context, multiply_piece, p->pieces, 0, &work);
  free(p->rounded);
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
