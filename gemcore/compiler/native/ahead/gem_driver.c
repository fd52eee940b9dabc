/* Runs the tables of a model: see gem.h for what it offers, gem_tables.h for what it is given. */
#include "gem_tables.h"

typedef struct {
  void *sync;
  int32_t tasks;
} gem_group;
typedef int (*gem_lambda)(int task, gem_group *group, void *data);

/* Compiled kernels call through these, which their object defines. */
extern int (*__TVMBackendParallelLaunch)(gem_lambda, void *, int);
extern void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern int (*__TVMBackendFreeWorkspace)(int, int, void *);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count);

enum { CPU = 1, DLTENSOR = 7, MOST_PIECES = 256 };

struct gem_model {
  const void *weights[GEM_WEIGHTS];
  void *caches[GEM_CACHES];
  int64_t positions, length;
  uint8_t *workspace;
  size_t workspace_bytes;
  gem_launcher launcher;
  void *launcher_context;
  int32_t threads;
  _Alignas(GEM_ALIGNMENT) uint8_t moved[GEM_MOVED_BYTES];
};

static char message[400];
static gem_model *running;
static gem_observer observe;
static void *observe_context;

/* What kernels hold of the scratch memory, in the order of its addresses. */
static struct {
  uint8_t *begin;
  uint64_t bytes;
  struct {
    uint64_t offset, bytes;
  } pieces[MOST_PIECES];
  int32_t count, locked;
} scratch;

static size_t aligned(size_t bytes) { return (bytes + GEM_ALIGNMENT - 1) / GEM_ALIGNMENT * GEM_ALIGNMENT; }

/* Errors */

static size_t add_text(size_t at, const char *text) {
  while (text && *text && at + 1 < sizeof message) message[at++] = *text++;
  message[at] = 0;
  return at;
}

static size_t add_number(size_t at, int64_t number) {
  char digits[24];
  int i = sizeof digits - 1;
  uint64_t left = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
  digits[i] = 0;
  do digits[--i] = (char)('0' + left % 10);
  while (left /= 10);
  if (number < 0) digits[--i] = '-';
  return add_text(at, digits + i);
}

static int fail(const char *what, int64_t is, const char *wanted, int64_t should, const char *advice) {
  size_t at = add_text(0, what);
  at = add_number(at, is);
  at = add_text(at, wanted);
  at = add_number(at, should);
  add_text(at, advice);
  return -1;
}

static int refuse(const char *sentence) {
  add_text(0, sentence);
  return -1;
}

const char *gem_error(void) { return message; }

/* Kernels raise their errors here. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  size_t at = add_text(add_text(0, kind), ": ");
  for (int32_t i = 0; i < count; ++i) at = add_text(at, parts[i]);
}

/* What kernels ask for */

static void lock(void) {
  while (__atomic_exchange_n(&scratch.locked, 1, __ATOMIC_ACQUIRE)) {
  }
}

static void unlock(void) { __atomic_store_n(&scratch.locked, 0, __ATOMIC_RELEASE); }

static void *allocate(int device, int id, uint64_t bytes, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  uint64_t wanted = aligned((size_t)bytes), at = 0;
  int32_t i = 0;
  void *found = 0;
  lock();
  /* The first gap that is large enough. */
  for (; i < scratch.count && scratch.pieces[i].offset - at < wanted; ++i)
    at = scratch.pieces[i].offset + scratch.pieces[i].bytes;
  if (at + wanted <= scratch.bytes && scratch.count < MOST_PIECES) {
    for (int32_t j = scratch.count++; j > i; --j) scratch.pieces[j] = scratch.pieces[j - 1];
    scratch.pieces[i].offset = at;
    scratch.pieces[i].bytes = wanted;
    found = scratch.begin + at;
  }
  unlock();
  return found;
}

static int release(int device, int id, void *pointer) {
  (void)device, (void)id;
  uint64_t offset = (uint64_t)((uint8_t *)pointer - scratch.begin);
  int32_t i = 0;
  lock();
  while (i < scratch.count && scratch.pieces[i].offset != offset) ++i;
  int missing = i == scratch.count;
  if (!missing) {
    for (--scratch.count; i < scratch.count; ++i) scratch.pieces[i] = scratch.pieces[i + 1];
  }
  unlock();
  return missing ? -1 : 0;
}

typedef struct {
  gem_lambda lambda;
  void *data;
  gem_group group;
} gem_loop;

static int run_task(int32_t task, void *data) {
  gem_loop *loop = data;
  gem_group group = loop->group;
  return loop->lambda(task, &group, loop->data);
}

static int launch(gem_lambda lambda, void *data, int tasks) {
  const gem_model *model = running;
  /* More tasks than threads: one that is late then delays the others less. */
  int32_t wanted = tasks > 0 ? tasks : model->launcher ? model->threads * 6 : 1;
  gem_loop loop = {lambda, data, {0, wanted}};
  if (model->launcher && wanted > 1)
    return model->launcher(model->launcher_context, run_task, &loop, wanted);
  for (int32_t i = 0; i < wanted; ++i)
    if (run_task(i, &loop) != 0) return -1;
  return 0;
}

/* Sizes */

static int64_t size_of(gem_size size, const int64_t *e) { return size < 0 ? e[-1 - size] : size; }

static void lengths_of(const gem_function *function, int64_t tokens, int64_t rows, int64_t positions,
                       int64_t *e) {
  const int64_t v[4] = {tokens, rows, positions, positions / GEM_BLOCK};
  function->expressions(v, e);
}

static size_t needed(const gem_function *function, int64_t tokens, int64_t rows, int64_t positions,
                     int32_t threads) {
  int64_t e[GEM_MOST_EXPRESSIONS];
  size_t total = 0;
  if (!function) return 0;
  lengths_of(function, tokens, rows, positions, e);
  for (int32_t i = 0; i < function->slot_count; ++i) total += aligned((size_t)size_of(function->slots[i], e));
  return total + aligned((size_t)size_of(function->scratch, e)) * (size_t)threads;
}

/* What gem_feed makes: placement and priors of each token. */
static size_t fed(int64_t tokens) {
  return aligned((size_t)tokens * GEM_PLACEMENT * sizeof(int32_t)) +
         aligned((size_t)tokens * (GEM_EXPERTS + 1) * sizeof(float));
}

size_t gem_workspace_bytes(const gem_model *model, int64_t tokens, int64_t rows) {
  const gem_function *functions[] = {gem_forward_function, gem_prior_function, gem_routes_function};
  size_t most = 0;
  for (int i = 0; i < 3; ++i) {
    size_t bytes = needed(functions[i], tokens, rows, model->positions, model->threads);
    if (bytes > most) most = bytes;
  }
  return most + fed(tokens);
}

/* Making a pass */

static void *place_of(const gem_model *model, const gem_tensor *tensor, const void *const *inputs,
                      void *const *slots, void *result) {
  switch (tensor->place) {
    case GEM_INPUT: return (void *)inputs[tensor->index];
    case GEM_CACHE: return model->caches[tensor->index];
    case GEM_WEIGHT: return (void *)model->weights[tensor->index];
    case GEM_CONSTANT: return (void *)gem_constants[tensor->index];
    case GEM_WORK: return slots[tensor->index];
    default: return result;
  }
}

static int make_call(const gem_model *model, const gem_function *function, const gem_call *call,
                     const int64_t *e, const void *const *inputs, void *const *slots, void *result) {
  gem_dltensor tensors[GEM_MOST_ARGUMENTS];
  int64_t shapes[GEM_MOST_ARGUMENTS][GEM_MOST_DIMENSIONS], strides[GEM_MOST_ARGUMENTS][GEM_MOST_DIMENSIONS];
  gem_any arguments[GEM_MOST_ARGUMENTS], nothing;
  for (int32_t i = 0; i < call->count; ++i) {
    const gem_tensor *tensor = &function->tensors[function->arguments[call->first + i]];
    int64_t stride = 1;
    for (int32_t d = tensor->ndim; d-- > 0;) {
      shapes[i][d] = size_of(tensor->shape[d], e);
      strides[i][d] = stride;
      stride *= shapes[i][d];
    }
    tensors[i].data = place_of(model, tensor, inputs, slots, result);
    tensors[i].device_type = CPU;
    tensors[i].device_id = 0;
    tensors[i].ndim = tensor->ndim;
    tensors[i].code = tensor->code;
    tensors[i].bits = tensor->bits;
    tensors[i].lanes = 1;
    tensors[i].shape = shapes[i];
    tensors[i].strides = strides[i];
    tensors[i].byte_offset = 0;
    arguments[i].kind = DLTENSOR;
    arguments[i].padding = 0;
    arguments[i].number = 0;
    arguments[i].pointer = &tensors[i];
  }
  nothing.kind = 0;
  nothing.padding = 0;
  nothing.number = 0;
  if (observe) observe(observe_context, call->name, 0);
  if (call->kernel(0, arguments, call->count, &nothing) != 0) {
    if (!message[0]) {
      size_t at = add_text(0, "the kernel ");
      add_text(add_text(at, call->name), " failed");
    }
    return -1;
  }
  if (observe) observe(observe_context, call->name, 1);
  return 0;
}

static int pass(gem_model *model, const gem_function *function, const void *const *inputs,
                int64_t tokens, int64_t rows, uint8_t *work, size_t bytes, void *result) {
  int64_t e[GEM_MOST_EXPRESSIONS];
  void *slots[GEM_MOST_SLOTS + 1];
  size_t wanted = needed(function, tokens, rows, model->positions, model->threads);
  if (wanted > bytes)
    return fail("the workspace has ", (int64_t)bytes, " bytes left for a pass that needs ", (int64_t)wanted,
                ": give gem_use_workspace what gem_workspace_bytes says");
  lengths_of(function, tokens, rows, model->positions, e);
  for (int32_t i = 0; i < function->slot_count; ++i) {
    slots[i] = work;
    work += aligned((size_t)size_of(function->slots[i], e));
  }
  scratch.begin = work;
  scratch.bytes = aligned((size_t)size_of(function->scratch, e)) * (size_t)model->threads;
  scratch.count = 0;
  running = model;
  __TVMBackendParallelLaunch = launch;
  __TVMBackendAllocWorkspace = allocate;
  __TVMBackendFreeWorkspace = release;
  message[0] = 0;
  for (int32_t i = 0; i < function->call_count; ++i)
    if (make_call(model, function, &function->calls[i], e, inputs, slots, result) != 0) return -1;
  return 0;
}

static int check(const gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count) {
  if (count < 1) return fail("a pass has ", count, " tokens, and needs at least ", 1, "");
  if (!model->positions) return refuse("the model has no cache yet: call gem_use_cache");
  for (int64_t i = 0; i < count; ++i) {
    const int32_t *own = placement + i * GEM_PLACEMENT;
    if (tokens[i] < 0 || tokens[i] >= GEM_VOCABULARY)
      return fail("there is no token ", tokens[i], ": the vocabulary has ", GEM_VOCABULARY, "");
    if (own[0] < 0 || own[0] >= GEM_CONTEXT)
      return fail("there is no position ", own[0], ": the model's context has ", GEM_CONTEXT, "");
    if (own[1] < 0 || own[1] >= model->positions)
      return fail("there is no cache slot ", own[1], ": the cache has ", model->positions, "");
    if (own[2] < 0 || own[3] < own[2] || own[3] > model->positions || own[4] < 0 || own[4] > own[1])
      return fail("token ", i, " is placed where it cannot be, in a cache of ", model->positions, " slots");
  }
  return 0;
}

static int forward(gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count,
                   const int32_t *rows, int64_t row_count, const float *priors, uint8_t *work,
                   size_t bytes, float *logits) {
  if (check(model, tokens, placement, count) != 0) return -1;
  if (row_count < 1) return fail("a pass has ", row_count, " wanted rows, and needs at least ", 1, "");
  for (int64_t i = 0; i < row_count; ++i)
    if (rows[i] < 0 || rows[i] >= count)
      return fail("there is no row ", rows[i], ": the pass has ", count, " tokens");
  if (GEM_EXPERTS && !priors) return refuse("a model with a router needs priors: zeros say nothing");
  const void *inputs[] = {tokens, placement, rows, priors};
  return pass(model, gem_forward_function, inputs, count, row_count, work, bytes, logits);
}

int gem_forward(gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count,
                const int32_t *rows, int64_t row_count, const float *priors, float *logits) {
  return forward(model, tokens, placement, count, rows, row_count, priors, model->workspace,
                 model->workspace_bytes, logits);
}

int gem_prior(gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count,
              float *prior) {
  if (!gem_prior_function) return refuse("this model has no part that gives a prior");
  if (GEM_ENCODER ? count < 1 : check(model, tokens, placement, count) != 0)
    return GEM_ENCODER ? fail("a pass has ", count, " tokens, and needs at least ", 1, "") : -1;
  const void *inputs[] = {tokens, placement};
  return pass(model, gem_prior_function, inputs, count, 1, model->workspace, model->workspace_bytes,
              prior);
}

int gem_routes(gem_model *model, const int32_t *tokens, const int32_t *placement, int64_t count,
               const float *priors, float *routes) {
  if (!gem_routes_function) return refuse("this model has no router");
  if (check(model, tokens, placement, count) != 0) return -1;
  const void *inputs[] = {tokens, placement, priors};
  return pass(model, gem_routes_function, inputs, count, 1, model->workspace, model->workspace_bytes,
              routes);
}

int gem_feed(gem_model *model, const int32_t *tokens, int64_t count, const float *prior, float *logits) {
  if (count < 1 || count > model->positions - model->length)
    return fail("cannot take ", count, " tokens: the cache has room for ", model->positions - model->length,
                " more");
  if (fed(count) > model->workspace_bytes)
    return refuse("the workspace is too small: give gem_use_workspace what gem_workspace_bytes says");
  int32_t *placement = (int32_t *)(void *)model->workspace;
  float *priors = (float *)(void *)(model->workspace +
                                    aligned((size_t)count * GEM_PLACEMENT * sizeof(int32_t)));
  for (int64_t i = 0; i < count; ++i) {
    int32_t at = (int32_t)(model->length + i);
    const int32_t own[GEM_PLACEMENT] = {at, at, 0, 0, 0};
    for (int j = 0; j < GEM_PLACEMENT; ++j) placement[i * GEM_PLACEMENT + j] = own[j];
    for (int j = 0; j < GEM_EXPERTS; ++j) priors[i * GEM_EXPERTS + j] = prior ? prior[j] : 0;
  }
  const int32_t last = (int32_t)(count - 1);
  if (forward(model, tokens, placement, count, &last, 1, GEM_EXPERTS ? priors : 0,
              model->workspace + fed(count), model->workspace_bytes - fed(count), logits) != 0)
    return -1;
  model->length += count;
  return 0;
}

int gem_rewind(gem_model *model, int64_t positions) {
  if (positions < 0 || positions > model->length)
    return fail("cannot go back to ", positions, " tokens: the text has ", model->length, "");
  model->length = positions;
  return 0;
}

/* Opening */

const gem_facts *gem_model_facts(void) { return &gem_these_facts; }

size_t gem_model_bytes(void) { return sizeof(gem_model); }

const char *gem_weight_name(int32_t index) {
  return index < 0 || index >= GEM_WEIGHTS ? 0 : gem_weights[index].name;
}

size_t gem_weight_bytes(int32_t index) {
  return index < 0 || index >= GEM_WEIGHTS ? 0 : (size_t)gem_weights[index].bytes;
}

static int start(void *memory, size_t bytes, gem_model **model) {
  if (bytes < sizeof(gem_model))
    return fail("the memory for the model has ", (int64_t)bytes, " bytes and needs ", sizeof(gem_model), "");
  if ((uintptr_t)memory % GEM_ALIGNMENT)
    return fail("the memory for the model begins at ", (int64_t)(uintptr_t)memory, ", not at a multiple of ",
                GEM_ALIGNMENT, "");
  gem_model *made = memory;
  for (int32_t i = 0; i < GEM_CACHES; ++i) made->caches[i] = 0;
  made->positions = made->length = 0;
  made->workspace = 0;
  made->workspace_bytes = 0;
  made->launcher = 0;
  made->threads = 1;
  *model = made;
  return 0;
}

/* Compiled code reads vectors: a weight that lies elsewhere is copied. */
static int set_weight(gem_model *model, int32_t i, const void *data, size_t *used) {
  size_t bytes = (size_t)gem_weights[i].bytes;
  if ((uintptr_t)data % GEM_WEIGHT_ALIGNMENT) {
    if (*used + aligned(bytes) > GEM_MOVED_BYTES) {
      size_t at = add_text(0, "the weight ");
      add_text(add_text(at, gem_weights[i].name), " must begin at a multiple of 64 bytes in memory");
      return -1;
    }
    uint8_t *to = model->moved + *used;
    for (size_t k = 0; k < bytes; ++k) to[k] = ((const uint8_t *)data)[k];
    *used += aligned(bytes);
    data = to;
  }
  model->weights[i] = data;
  return 0;
}

int gem_open_weights(void *memory, size_t bytes, const void *const *weights, gem_model **model) {
  size_t used = 0;
  if (start(memory, bytes, model) != 0) return -1;
  for (int32_t i = 0; i < GEM_WEIGHTS; ++i)
    if (set_weight(*model, i, weights[i], &used) != 0) return -1;
  return 0;
}

static int64_t length_of(const char *text) {
  int64_t n = 0;
  while (text[n]) ++n;
  return n;
}

static int is_at(const char *text, int64_t at, int64_t end, const char *word) {
  for (; *word; ++word, ++at)
    if (at >= end || text[at] != *word) return 0;
  return 1;
}

static int64_t find(const char *text, int64_t begin, int64_t end, const char *word) {
  for (; begin < end; ++begin)
    if (text[begin] == *word && is_at(text, begin, end, word)) return begin + length_of(word);
  return -1;
}

/* Where `"name":{` ends: names in the header hold no quotes, and GEM writes no spaces. */
static int64_t find_entry(const char *text, int64_t begin, int64_t end, const char *name) {
  while ((begin = find(text, begin, end, name)) > 0) {
    int64_t before = begin - length_of(name) - 1;
    if (before >= 0 && text[before] == '"' && is_at(text, begin, end, "\":{")) return begin + 3;
  }
  return -1;
}

static int64_t read_number(const char *text, int64_t *at, int64_t end) {
  int64_t number = 0, first = *at;
  for (; *at < end && text[*at] >= '0' && text[*at] <= '9' && *at - first < 15; ++*at)
    number = number * 10 + (text[*at] - '0');
  return *at == first ? -1 : number;
}

static int no_weight(const char *name, const char *why) {
  add_text(add_text(add_text(0, "the file's weight "), name), why);
  return -1;
}

int gem_open(void *memory, size_t bytes, const void *file, size_t file_bytes, gem_model **model) {
  const uint8_t *data = file;
  const char *text = (const char *)data;
  uint64_t header = 0;
  size_t used = 0;
  if (start(memory, bytes, model) != 0) return -1;
  for (int i = 8; file_bytes >= 8 && i-- > 0;) header = header << 8 | data[i];
  if (file_bytes < 8 || header > file_bytes - 8) return refuse("the weights are no safetensors file");
  int64_t begin = 8, end = 8 + (int64_t)header, size = (int64_t)file_bytes, seen = begin;
  for (int32_t i = 0; i < GEM_WEIGHTS; ++i) {
    const gem_weight *weight = &gem_weights[i];
    /* They are mostly in order. */
    int64_t at = find_entry(text, seen, end, weight->name);
    if (at < 0) at = find_entry(text, begin, end, weight->name);
    if (at < 0) return no_weight(weight->name, " is missing: it was made for another model");
    seen = at;
    int64_t closed = find(text, at, end, "}");
    if (find(text, at, closed, weight->dtype) < 0)
      return no_weight(weight->name, " has another type: it was made for another model");
    at = find(text, at, closed, "\"data_offsets\":[");
    int64_t from = at < 0 ? -1 : read_number(text, &at, closed);
    int64_t to = from < 0 || text[at] != ',' ? -1 : (++at, read_number(text, &at, closed));
    if (to < from || from < 0 || (uint64_t)(to - from) != weight->bytes || to > size - end)
      return no_weight(weight->name, " has another size: it was made for another model, or is damaged");
    if (set_weight(*model, i, data + end + from, &used) != 0) return -1;
  }
  return 0;
}

/* What the caller provides */

size_t gem_cache_tensor_bytes(int32_t index, int64_t positions) {
  return (size_t)gem_cache_size(index % 2, positions);
}

size_t gem_cache_bytes(int64_t positions) {
  size_t total = 0;
  for (int32_t i = 0; i < GEM_CACHES; ++i) total += aligned(gem_cache_tensor_bytes(i, positions));
  return total;
}

int gem_use_cache_tensors(gem_model *model, void *const *tensors, int64_t positions) {
  if (positions < GEM_BLOCK || positions % GEM_BLOCK)
    return fail("a cache cannot have ", positions, " positions: take a multiple of ", GEM_BLOCK, "");
  for (int32_t i = 0; i < GEM_CACHES; ++i) {
    if ((uintptr_t)tensors[i] % GEM_WEIGHT_ALIGNMENT)
      return fail("cache tensor ", i, " must begin at a multiple of ", GEM_WEIGHT_ALIGNMENT, " bytes");
    model->caches[i] = tensors[i];
  }
  model->positions = positions;
  return 0;
}

int gem_use_cache(gem_model *model, void *memory, int64_t positions) {
  void *tensors[GEM_CACHES];
  uint8_t *at = memory;
  for (int32_t i = 0; i < GEM_CACHES; ++i) {
    tensors[i] = at;
    at += aligned(gem_cache_tensor_bytes(i, positions));
  }
  if (gem_use_cache_tensors(model, tensors, positions) != 0) return -1;
  model->length = 0;
  return 0;
}

int gem_use_workspace(gem_model *model, void *memory, size_t bytes) {
  if ((uintptr_t)memory % GEM_ALIGNMENT)
    return fail("the workspace begins at ", (int64_t)(uintptr_t)memory, ", not at a multiple of ",
                GEM_ALIGNMENT, "");
  model->workspace = memory;
  model->workspace_bytes = bytes;
  return 0;
}

int gem_use_threads(gem_model *model, gem_launcher launcher, void *context, int32_t threads) {
  if (launcher && (threads < 1 || threads > 64))
    return fail("cannot use ", threads, " threads: take 1 to ", 64, "");
  model->launcher = launcher;
  model->launcher_context = context;
  model->threads = launcher ? threads : 1;
  return 0;
}

void gem_use_observer(gem_observer observer, void *context) {
  observe = observer;
  observe_context = context;
}
