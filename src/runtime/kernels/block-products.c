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
#include "ort.h"

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

static const char *name(const void *self) { return (void)self, "BlockProduct"; }
static int input_type(const void *self, size_t index) { return (void)self, index == W ? UINT8 : FLOAT; }
static size_t input_count(const void *self) { return (void)self, INPUTS; }
static size_t output_count(const void *self) { return (void)self, 1; }
static int input_kind(const void *self, size_t index) { return (void)self, index == BIAS ? OPTIONAL : REQUIRED; }

const struct operator block_product = {
    COMMON_ANSWERS,
    .name = name,
    .input_type = input_type,
    .input_count = input_count,
    .output_count = output_count,
    .input_kind = input_kind,
    .create = create,
    .compute = compute,
};
