/*
 * A decode step of one layer as an operator of ONNX Runtime: ale::DecoderLayer. Each row is one new token of a sequence of its own.
 *
 *   x → x + Wo attention(rotary(Wqkv norm(x)), cache) → that + Wdown (silu(gate) up), gate and up from Wgate_up norm(that)
 *
 * Inputs: x [rows, hidden]; lengths [rows], the cells in use before the step; norms [hidden]; matrices [out, in], query, key and value
 * as one and gate and up as one; cos and sin [cells, head_dim / 2]; keys and values [rows, kv_heads, cells, head_dim]. Outputs: y
 * as x, and the caches with a cell more, which may be the memory of those that came in.
 *
 * For models so small that a step costs as much in handing results from operator to operator as in computing them. Rows are divided over
 * threads, not columns: then nobody waits inside a layer.
 */

#include <stdlib.h>
#include <string.h>

#include "decoder-layer.h"
#include "ort.h"

/* Values of the attribute `instructions`. */
enum { NONE = 0, WITH_AVX2 = 2, WITH_AVX512 = 512 };

/* The best value of `instructions` that the processor can do, or NONE. */
EXPORT int ale_decoder_layer_instructions(void) {
  if (__builtin_cpu_supports("avx512f")) return WITH_AVX512;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? WITH_AVX2 : NONE;
}

struct kernel {
  struct layer_shape shape;
  int64_t instructions;
};

static int fits(const struct layer_shape *s) {
  return s->hidden > 0 && s->inner > 0 && s->head_dim > 0 && s->kv_heads > 0 && s->pieces > 0 && s->heads % s->kv_heads == 0 &&
         (s->hidden | s->inner | s->head_dim) % LAYER_LANES == 0;
}

static status create(const void *self, const void *api, const void *info, void **out) {
  (void)self, (void)api;
  struct kernel *kernel = malloc(sizeof *kernel);
  if (kernel == NULL) return ort->create_status(FAIL, "DecoderLayer: out of memory");
  struct layer_shape *s = &kernel->shape;
  const struct {
    const char *name;
    int64_t *value;
  } integers[] = {{"hidden", &s->hidden},     {"heads", &s->heads}, {"kv_heads", &s->kv_heads},
                  {"head_dim", &s->head_dim}, {"inner", &s->inner}, {"pieces", &s->pieces},
                  {"instructions", &kernel->instructions}};
  status error = ort->float_attribute(info, "epsilon", &s->eps);
  for (size_t i = 0; error == NULL && i < sizeof integers / sizeof *integers; i++)
    error = ort->int_attribute(info, integers[i].name, integers[i].value);
  if (error == NULL && (kernel->instructions == NONE || kernel->instructions > ale_decoder_layer_instructions()))
    error = ort->create_status(FAIL, "DecoderLayer: this processor lacks the instructions");
  if (error == NULL && !fits(s))
    error = ort->create_status(FAIL, "DecoderLayer: widths are to be multiples of 16, heads one of kv_heads");
  if (error == NULL) *out = kernel;
  else free(kernel);
  return error;
}

/* Elements of an input in a step of `rows` rows. */
static size_t expected(const struct layer_step *step, size_t input) {
  const struct layer_shape *s = &step->shape;
  const size_t hidden = s->hidden, cache = step->rows * s->kv_heads * step->cells * s->head_dim;
  const size_t counts[INPUTS] = {[X] = step->rows * hidden,
                                 [LENGTHS] = step->rows,
                                 [ATTENTION_NORM] = hidden,
                                 [QUERY_KEY_VALUE] = packed_width(s) * hidden,
                                 [OUTPUT] = hidden * query_width(s),
                                 [MLP_NORM] = hidden,
                                 [GATE_UP] = 2 * s->inner * hidden,
                                 [DOWN] = hidden * s->inner,
                                 [COS] = step->cells * s->head_dim / 2,
                                 [SIN] = step->cells * s->head_dim / 2,
                                 [PAST_KEYS] = cache,
                                 [PAST_VALUES] = cache};
  return counts[input];
}

static status read_inputs(struct layer_step *step, void *context) {
  size_t counts[INPUTS] = {0};
  for (size_t i = 0; i < INPUTS; i++) {
    void *data;
    status error = elements_of(context, i, &data, &counts[i]);
    if (error != NULL) return error;
    step->in[i] = data;
  }
  step->lengths = (const int32_t *)step->in[LENGTHS];
  step->rows = counts[LENGTHS];
  step->cells = counts[COS] * 2 / step->shape.head_dim;
  for (size_t i = 0; i < INPUTS; i++)
    if (counts[i] != expected(step, i))
      return ort->create_status(FAIL, "DecoderLayer: the operands do not have the shapes that its attributes ask for");
  if (step->cells < LAYER_LANES) return ort->create_status(FAIL, "DecoderLayer: caches are to have at least 16 cells");
  for (size_t row = 0; row < step->rows; row++)
    if (step->lengths[row] < 0 || (size_t)step->lengths[row] >= step->cells)
      return ort->create_status(FAIL, "DecoderLayer: a sequence is longer than its cache");
  return NULL;
}

static status make_outputs(struct layer_step *step, void *context) {
  const struct layer_shape *s = &step->shape;
  const int64_t result[2] = {step->rows, s->hidden}, cache[4] = {step->rows, s->kv_heads, step->cells, s->head_dim};
  for (size_t i = 0; i < OUTPUTS; i++) {
    void *value, *data;
    status error = ort->output_of(context, i, i == Y ? result : cache, i == Y ? 2 : 4, &value);
    if (error == NULL) error = ort->data_of(value, &data);
    if (error != NULL) return error;
    step->out[i] = data;
    const float *past = i == Y ? data : step->in[i == KEYS ? PAST_KEYS : PAST_VALUES];
    if (past != data) memcpy(data, past, expected(step, PAST_KEYS) * sizeof(float));
  }
  return NULL;
}

static size_t piece_rows(const struct layer_step *step) { return (step->rows + step->shape.pieces - 1) / step->shape.pieces; }

static void run_piece(void *argument, size_t piece) {
  const struct layer_step *step = argument;
  const size_t most = piece_rows(step), first = piece * most, end = first + most < step->rows ? first + most : step->rows;
  if (first < end) step->run(step, first, end, step->scratch + piece * scratch_floats(&step->shape, most, step->cells));
}

static status compute(void *state, void *context) {
  const struct kernel *kernel = state;
  struct layer_step step = {.shape = kernel->shape};
  step.run = kernel->instructions == WITH_AVX512 ? layer_rows_avx512 : layer_rows_avx2;
  status error = read_inputs(&step, context);
  if (error == NULL) error = make_outputs(&step, context);
  if (error != NULL || step.rows == 0) return error;
  const size_t pieces = step.shape.pieces;
  step.scratch = malloc(pieces * scratch_floats(&step.shape, piece_rows(&step), step.cells) * sizeof(float));
  if (step.scratch == NULL) return ort->create_status(FAIL, "DecoderLayer: out of memory");
  if (pieces == 1) run_piece(&step, 0);
  else error = ort->parallel_for(context, run_piece, pieces, 0, &step);
  free(step.scratch);
  return error;
}

static const char *name(const void *self) { return (void)self, "DecoderLayer"; }
static int input_type(const void *self, size_t index) { return (void)self, index == LENGTHS ? INT32 : FLOAT; }
static size_t input_count(const void *self) { return (void)self, INPUTS; }
static size_t output_count(const void *self) { return (void)self, OUTPUTS; }

const struct operator decoder_layer = {
    COMMON_ANSWERS,
    .name = name,
    .input_type = input_type,
    .input_count = input_count,
    .output_count = output_count,
    .input_kind = always_required,
    .create = create,
    .compute = compute,
};
