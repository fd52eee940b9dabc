/* A language model compiled by GEM, as a library that needs nothing else: no TVM, no C library.
 *
 * All memory is the caller's. A pass at a time in one process: the library is not for several threads at
 * once, though it can spread a pass over several (gem_use_threads). Functions that return an int return 0,
 * or -1 where gem_error says why not. Constants of this model are in gem_model.h.
 *
 *   gem_model *model;
 *   gem_open(memory, gem_model_bytes(), file, file_bytes, &model);      // weights.safetensors, mapped
 *   gem_use_cache(model, cache, positions);                              // gem_cache_bytes(positions)
 *   gem_use_workspace(model, workspace, gem_workspace_bytes(model, tokens, 1));
 *   gem_feed(model, prompt, prompt_tokens, NULL, logits);                // logits of the last token
 *   gem_feed(model, &next, 1, NULL, logits);                             // and so on
 */
#ifndef GEM_H
#define GEM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GEM_API __attribute__((visibility("default")))
#else
#define GEM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a function here changes. */
#define GEM_INTERFACE 1

/* Memory given to the library begins at multiples of this; so does a file that is given to gem_open. */
#define GEM_ALIGNMENT 128

/* Numbers of a token in `placement`: RoPE position, cache slot, start and end of a shared prefix, first
 * slot of the token's own text. */
#define GEM_PLACEMENT 5

typedef struct gem_model gem_model;

typedef struct {
  int32_t interface;  /* GEM_INTERFACE of the library */
  int32_t vocabulary; /* logits of one row */
  int32_t layers;
  int32_t context;  /* most positions that the model was trained for */
  int32_t experts;  /* 0 without a router */
  int32_t routing;  /* layers that route; 0 where gem_routes cannot be called */
  int32_t prior;    /* 1 where gem_prior can be called */
  int32_t weights;  /* number of weight tensors */
  int32_t caches;   /* number of cache tensors: keys and values of each layer */
  int32_t block;    /* cache positions come in multiples of this */
} gem_facts;

GEM_API const gem_facts *gem_model_facts(void);

/* One sentence about what failed last. */
GEM_API const char *gem_error(void);

/* Memory for the model itself, beside its weights. */
GEM_API size_t gem_model_bytes(void);

/* Use the weights of a safetensors file that lies in memory, and must stay there. Names and sizes are
 * checked. */
GEM_API int gem_open(void *memory, size_t bytes, const void *file, size_t file_bytes, gem_model **model);

/* The same with a pointer to each weight, in the order of the bundle's manifest. Sizes are not checked. */
GEM_API int gem_open_weights(void *memory, size_t bytes, const void *const *weights, gem_model **model);

/* Name and size of a weight; NULL where there is none of that index. */
GEM_API const char *gem_weight_name(int32_t index);
GEM_API size_t gem_weight_bytes(int32_t index);

/* The cache of one text: for `positions` tokens, a multiple of gem_facts.block. Zero it before its first
 * use. Another cache may be used between passes. */
GEM_API size_t gem_cache_bytes(int64_t positions);
GEM_API int gem_use_cache(gem_model *model, void *memory, int64_t positions);
GEM_API size_t gem_cache_tensor_bytes(int32_t index, int64_t positions);
GEM_API int gem_use_cache_tensors(gem_model *model, void *const *tensors, int64_t positions);

/* Memory that passes of up to `tokens` tokens and `rows` wanted rows work in, with the cache and the
 * threads that the model has now. */
GEM_API size_t gem_workspace_bytes(const gem_model *model, int64_t tokens, int64_t rows);
GEM_API int gem_use_workspace(gem_model *model, void *memory, size_t bytes);

/* Give the model the next tokens of a text; `logits` [vocabulary] are those after the last one.
 * `prior` [experts] is the request's prior over the experts, or NULL for none. */
GEM_API int gem_feed(gem_model *model, const int32_t *tokens, int64_t count, const float *prior,
                     float *logits);

/* Forget all but the first `positions` tokens that gem_feed was given. */
GEM_API int gem_rewind(gem_model *model, int64_t positions);

/* A pass of any kind: `tokens` [count], `placement` [count][GEM_PLACEMENT], `rows` [row_count] (which
 * tokens' logits are wanted), `priors` [count][experts] (NULL without a router), `logits`
 * [row_count][vocabulary]. */
GEM_API int gem_forward(gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count,
                        const int32_t *rows, int64_t row_count, const float *priors, float *logits);

/* The prior over the experts [experts] of a text, where gem_facts.prior is 1. Where an encoder of its own
 * gives it, the tokens are the encoder's. */
GEM_API int gem_prior(gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count,
                      float *prior);

/* What each router says of each token: [routing][count][experts]. */
GEM_API int gem_routes(gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count,
                       const float *priors, float *routes);

/* Threads: `launcher` must call `run(task, data)` for each task from 0 to tasks - 1, on any threads, and
 * return when all have returned: 0, or -1 where one returned that. NULL: the caller's thread alone. */
typedef int (*gem_task)(int32_t task, void *data);
typedef int (*gem_launcher)(void *context, gem_task run, void *data, int32_t tasks);
GEM_API int gem_use_threads(gem_model *model, gem_launcher launcher, void *context, int32_t threads);

/* Called before and after each kernel, to count or to time them; NULL for none. */
typedef void (*gem_observer)(void *context, const char *kernel, int32_t after);
GEM_API void gem_use_observer(gem_observer observer, void *context);

#ifdef __cplusplus
}
#endif

#endif
