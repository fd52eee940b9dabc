/* What the generated tables are made of. */
#ifndef GEM_TABLES_H
#define GEM_TABLES_H

#include "gem.h"
#include "gem_model.h"
#include "gem_sizes.h"

/* TVM's C interface, as far as compiled kernels use it. */
typedef struct {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} gem_dltensor;

typedef struct {
  int32_t kind;
  uint32_t padding;
  union {
    int64_t number;
    void *pointer;
  };
} gem_any;

typedef int (*gem_kernel)(void *self, const gem_any *arguments, int32_t count, gem_any *result);

enum { GEM_INPUT, GEM_CACHE, GEM_WEIGHT, GEM_CONSTANT, GEM_WORK, GEM_RESULT };

/* A size: a number, or where it is negative, -1 minus the index of an expression. */
typedef int32_t gem_size;

typedef struct {
  uint8_t place, code, bits, ndim;
  int32_t index;
  gem_size shape[GEM_MOST_DIMENSIONS];
} gem_tensor;

typedef struct {
  gem_kernel kernel;
  const char *name;
  int32_t first, count; /* of its arguments */
} gem_call;

typedef struct {
  void (*expressions)(const int64_t *v, int64_t *e);
  const gem_tensor *tensors;
  const uint16_t *arguments;
  const gem_call *calls;
  int32_t call_count;
  const gem_size *slots; /* bytes of each */
  int32_t slot_count;
  gem_size scratch;
} gem_function;

typedef struct {
  const char *name, *dtype;
  uint64_t bytes;
} gem_weight;

/* NULL where the model has no such function. */
extern const gem_function *const gem_forward_function, *const gem_prior_function,
    *const gem_routes_function;
extern const void *const gem_constants[];
extern const gem_weight gem_weights[];
extern const gem_facts gem_these_facts;

/* Bytes of one cache tensor for so many positions: even ones are keys, odd ones values. */
int64_t gem_cache_size(int32_t odd, int64_t positions);

#endif
