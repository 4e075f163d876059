/* The domain "ale" of ONNX Runtime with the operators of this folder in it. */

#include "ort.h"

const struct table *ort;

status elements_of(void *context, size_t index, void **data, size_t *count) {
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

const char *on_processor(const void *self) { return (void)self, "CPUExecutionProvider"; }
int always_float(const void *self, size_t index) { return (void)self, (void)index, FLOAT; }
int always_required(const void *self, size_t index) { return (void)self, (void)index, REQUIRED; }
int default_memory(const void *self, size_t index) { return (void)self, (void)index, 0; }
int at_least_one(const void *self) { return (void)self, 1; }

/* The domain, for the options of sessions; NULL when ONNX Runtime refuses. */
EXPORT void *ale_operators_domain(const struct table *api) {
  void *domain = NULL;
  ort = api;
  status error = ort->create_domain("ale", &domain);
  if (error == NULL) error = ort->add_to_domain(domain, &block_product);
  if (error == NULL) error = ort->add_to_domain(domain, &adamw);
  if (error == NULL) error = ort->add_to_domain(domain, &decoder_layer);
  if (error == NULL) return domain;
  ort->release_status(error);
  return NULL;
}
