/*
 * What the operators share of ONNX Runtime. Its header is not in its npm package; its function table only grows at its end, so
 * that places in it stay right, and of OrtCustomOp it reads what the version at its head promises.
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/include/onnxruntime/core/session/onnxruntime_c_api.h
 */

#ifndef ALE_ORT_H
#define ALE_ORT_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

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
  void *unused_4[19];
  status (*float_attribute)(const void *info, const char *name, float *value);
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
_Static_assert(offsetof(struct table, float_attribute) == 85 * sizeof(void *), "KernelInfoGetAttribute_float");
_Static_assert(offsetof(struct table, int_attribute) == 86 * sizeof(void *), "KernelInfoGetAttribute_int64");
_Static_assert(offsetof(struct table, input_of) == 90 * sizeof(void *), "KernelContext_GetInput");
_Static_assert(offsetof(struct table, release_status) == 93 * sizeof(void *), "ReleaseStatus");
_Static_assert(offsetof(struct table, release_shape) == 99 * sizeof(void *), "ReleaseTensorTypeAndShapeInfo");
_Static_assert(offsetof(struct table, parallel_for) == 274 * sizeof(void *), "KernelContext_ParallelFor");

/* Set before the first operator is registered. */
extern const struct table *ort;

enum { FAIL = 1, FLOAT = 1, UINT8 = 2, INT32 = 6, REQUIRED = 0, OPTIONAL = 1 };

/* OrtCustomOp of version 16, the first whose functions return errors. */
struct operator {
  uint32_t version;
  void *create_1, *name, *provider, *input_type, *input_count, *output_type, *output_count, *compute_1, *destroy;
  void *input_kind, *output_kind, *memory_type;
  void *input_arity, *input_alike, *output_arity, *output_alike;
  void *create, *compute;
  void *unused[8];
};

const char *on_processor(const void *self);
int always_float(const void *self, size_t index);
int always_required(const void *self, size_t index);
int default_memory(const void *self, size_t index);
int at_least_one(const void *self);

/* For operators on the processor whose outputs are float32 and whose kernels are memory from malloc. */
#define COMMON_ANSWERS                                                                                              \
  .version = 16, .provider = on_processor, .output_type = always_float, .output_kind = always_required,             \
  .memory_type = default_memory, .input_arity = at_least_one, .input_alike = at_least_one,                          \
  .output_arity = at_least_one, .output_alike = at_least_one, .destroy = free

/* The elements of an input; NULL, and no error, for one that is left out. */
status elements_of(void *context, size_t index, void **data, size_t *count);

extern const struct operator block_product, adamw, decoder_layer;

#endif
