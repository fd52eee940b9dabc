/* Runs a library that GEM compiled ahead of time, in a program of its own: on an emulator, or on a device.
 *
 *   gem-runner serve PLAN DESCRIPTOR                    passes for another program; see
 *                                                       gemcore/runtime/process_executor.py
 *   gem-runner generate PLAN COUNT TOKEN...             continues a text greedily and prints token ids
 *
 * Of a plan (gemcore/runtime/plan.py) it reads the paths of library and weights. With GEM_STATIC the library
 * is linked in.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gem.h"

enum { BIND = 1, FORWARD, PRIOR, ROUTES, FREE };
enum { MOST_TOKENS = 1 << 20, MOST_CACHES = 1 << 16 };

#define FUNCTIONS(EACH)                                                                            \
  EACH(gem_model_facts) EACH(gem_error) EACH(gem_model_bytes) EACH(gem_open)                       \
  EACH(gem_cache_bytes) EACH(gem_cache_tensor_bytes) EACH(gem_use_cache)                           \
  EACH(gem_use_cache_tensors) EACH(gem_workspace_bytes) EACH(gem_use_workspace) EACH(gem_feed)     \
  EACH(gem_forward) EACH(gem_prior) EACH(gem_routes)

#define MEMBER(name) __typeof__(&name) name;
static struct { FUNCTIONS(MEMBER) } code;

static void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("gem-runner: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static void *page_memory(size_t bytes) {
  void *memory = mmap(0, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("no memory for %zu bytes", bytes);
  return memory;
}

static const void *mapped(const char *path, size_t *bytes) {
  struct stat status;
  int file = open(path, O_RDONLY);
  if (file < 0 || fstat(file, &status) != 0) die("cannot read %s: %s", path, strerror(errno));
  *bytes = (size_t)status.st_size;
  void *memory = mmap(0, *bytes, PROT_READ, MAP_PRIVATE, file, 0);
  if (memory == MAP_FAILED) die("cannot map %s: %s", path, strerror(errno));
  close(file);
  return memory;
}

static void load(const char *library) {
#ifdef GEM_STATIC
  (void)library;
#define TAKE(name) code.name = name;
#else
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) die("cannot load %s", dlerror());
#define TAKE(name)                                        \
  *(void **)(void *)&code.name = dlsym(handle, #name);    \
  if (!code.name) die("%s has no " #name, library);
#endif
  FUNCTIONS(TAKE)
  if (code.gem_model_facts()->interface != GEM_INTERFACE)
    die("the library has interface %d, and this program knows %d", code.gem_model_facts()->interface,
        GEM_INTERFACE);
}

/* The value of a line `word value` of the plan. */
static const char *value_in(const char *plan, const char *word) {
  static char line[8192];
  FILE *file = fopen(plan, "r");
  if (!file) die("cannot read %s: %s", plan, strerror(errno));
  size_t length = strlen(word);
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, word, length) != 0 || line[length] != ' ') continue;
    line[strcspn(line, "\n")] = 0;
    fclose(file);
    return line + length + 1;
  }
  die("%s names no %s", plan, word);
  return 0;
}

/* A path in the plan; relative ones begin at its folder. */
static char *path_in(const char *plan, const char *word) {
  const char *value = value_in(plan, word), *slash = strrchr(plan, '/');
  size_t folder = value[0] == '/' || !slash ? 0 : (size_t)(slash - plan) + 1;
  char *path = malloc(folder + strlen(value) + 1);
  if (!path) die("no memory");
  memcpy(path, plan, folder);
  strcpy(path + folder, value);
  return path;
}

static gem_model *open_model(const char *plan) {
  size_t bytes;
  gem_model *model;
  load(path_in(plan, "library"));
  const void *weights = mapped(path_in(plan, "weights"), &bytes);
  if (code.gem_open(page_memory(code.gem_model_bytes()), code.gem_model_bytes(), weights, bytes, &model) != 0)
    die("%s", code.gem_error());
  return model;
}

static size_t workspace_bytes;
static void *workspace;

static int use_workspace(gem_model *model, int64_t tokens, int64_t rows) {
  size_t wanted = code.gem_workspace_bytes(model, tokens, rows);
  if (wanted > workspace_bytes) {
    if (workspace) munmap(workspace, workspace_bytes);
    workspace = page_memory(wanted);
    workspace_bytes = wanted;
  }
  return code.gem_use_workspace(model, workspace, workspace_bytes);
}

/* Serving */

typedef struct {
  void **tensors;
  size_t *bytes;
  int64_t positions;
} cache;

static cache *caches;
static int32_t cache_count;

static void *read_exactly(size_t bytes) {
  void *data = page_memory(bytes);
  if (fread(data, 1, bytes, stdin) != bytes) die("a request was cut off");
  return data;
}

static void answer(int status, const void *data, size_t bytes) {
  const int32_t head[2] = {status, 0};
  const int64_t size = (int64_t)bytes;
  fwrite(head, sizeof head, 1, stdout);
  fwrite(&size, sizeof size, 1, stdout);
  fwrite(data, 1, bytes, stdout);
  fflush(stdout);
}

static void answer_error(const char *sentence) { answer(1, sentence, strlen(sentence)); }

static void forget(cache *old, int32_t count) {
  for (int32_t i = 0; old->tensors && i < count; ++i) munmap(old->tensors[i], old->bytes[i]);
  free(old->tensors);
  free(old->bytes);
  memset(old, 0, sizeof *old);
}

static void bind_cache(int32_t id, int32_t count, int descriptor) {
  const gem_facts *facts = code.gem_model_facts();
  size_t size = (size_t)count * 6 * sizeof(int64_t);
  int64_t(*records)[6] = read_exactly(size);
  if (id >= cache_count) {
    caches = realloc(caches, (size_t)(id + 1) * sizeof *caches);
    if (!caches) die("no memory");
    memset(caches + cache_count, 0, (size_t)(id + 1 - cache_count) * sizeof *caches);
    cache_count = id + 1;
  }
  if (count != facts->caches) die("a cache of %d tensors was given, and the model has %d", count, facts->caches);
  cache *own = &caches[id];
  forget(own, count);
  own->tensors = calloc((size_t)count, sizeof *own->tensors);
  own->bytes = calloc((size_t)count, sizeof *own->bytes);
  if (!own->tensors || !own->bytes) die("no memory");
  /* Keys lie in blocks. */
  own->positions = records[0][3] * facts->block;
  for (int32_t i = 0; i < count; ++i) {
    own->bytes[i] = code.gem_cache_tensor_bytes(i, own->positions);
    own->tensors[i] = mmap(0, own->bytes[i], PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, records[i][0]);
    if (own->tensors[i] == MAP_FAILED) die("cannot map a cache: %s", strerror(errno));
  }
  munmap(records, size);
  answer(0, 0, 0);
}

static int make_pass(gem_model *model, const int32_t *request, const int32_t *tokens,
                     const int32_t *placement, const int32_t *rows, const float *priors, float *result) {
  const cache *own = &caches[request[1]];
  int64_t count = request[2], row_count = request[3] ? request[3] : 1;
  if (code.gem_use_cache_tensors(model, own->tensors, own->positions) != 0) return -1;
  if (use_workspace(model, count, row_count) != 0) return -1;
  if (request[0] == FORWARD)
    return code.gem_forward(model, tokens, placement, count, rows, request[3], priors, result);
  if (request[0] == PRIOR) return code.gem_prior(model, tokens, placement, count, result);
  return code.gem_routes(model, tokens, placement, count, priors, result);
}

static void run_request(gem_model *model, const int32_t *request) {
  const gem_facts *facts = code.gem_model_facts();
  const size_t count = (size_t)request[2], rows = (size_t)request[3], experts = (size_t)facts->experts;
  const int routed = experts && request[0] != PRIOR;
  const size_t sizes[4] = {count * 4, count * GEM_PLACEMENT * 4, request[0] == FORWARD ? rows * 4 : 0,
                           routed ? count * experts * 4 : 0};
  void *parts[4];
  for (int i = 0; i < 4; ++i) parts[i] = read_exactly(sizes[i]);
  size_t numbers = request[0] == FORWARD ? rows * (size_t)facts->vocabulary
                   : request[0] == PRIOR ? experts
                                         : (size_t)facts->routing * count * experts;
  float *result = page_memory(numbers * sizeof(float));
  if (make_pass(model, request, parts[0], parts[1], parts[2], routed ? parts[3] : 0, result) != 0)
    answer_error(code.gem_error());
  else
    answer(0, result, numbers * sizeof(float));
  munmap(result, numbers ? numbers * sizeof(float) : 1);
  for (int i = 0; i < 4; ++i) munmap(parts[i], sizes[i] ? sizes[i] : 1);
}

static int serve(gem_model *model, int descriptor) {
  int32_t request[4];
  while (fread(request, sizeof request, 1, stdin) == 1) {
    if (request[1] < 0 || request[1] >= MOST_CACHES || request[2] < 0 || request[2] > MOST_TOKENS ||
        request[3] < 0 || request[3] > MOST_TOKENS)
      die("a request was damaged");
    if (request[0] == BIND) {
      bind_cache(request[1], request[2], descriptor);
    } else if (request[0] == FREE) {
      if (request[1] < cache_count) forget(&caches[request[1]], code.gem_model_facts()->caches);
    } else if (request[0] < FORWARD || request[0] > ROUTES || request[1] >= cache_count ||
               !caches[request[1]].tensors) {
      die("a request was damaged");
    } else {
      run_request(model, request);
    }
  }
  return 0;
}

/* A text of one's own */

/* The prior over the experts, from the beginning of the prompt; zeros, which say nothing, where the model
 * has no network for it, or one that reads tokens of its own. */
static const float *prior_of(gem_model *model, const char *plan, const int32_t *prompt, int64_t count) {
  const gem_facts *facts = code.gem_model_facts();
  float *prior = page_memory((size_t)facts->experts * sizeof(float));
  int64_t longest = atoi(value_in(plan, "prior"));
  if (!facts->prior || !longest || atoi(value_in(plan, "encoder"))) return prior;
  if (count > longest) count = longest;
  int32_t(*placement)[GEM_PLACEMENT] = page_memory((size_t)count * sizeof *placement);
  for (int32_t i = 0; i < count; ++i) placement[i][0] = placement[i][1] = i;
  if (code.gem_prior(model, prompt, placement[0], count, prior) != 0) die("%s", code.gem_error());
  return prior;
}

static int generate(const char *plan, int64_t wanted, const int32_t *prompt, int64_t count) {
  gem_model *model = open_model(plan);
  const gem_facts *facts = code.gem_model_facts();
  int64_t positions = (count + wanted + facts->block - 1) / facts->block * facts->block;
  float *logits = page_memory((size_t)facts->vocabulary * sizeof(float));
  if (code.gem_use_cache(model, page_memory(code.gem_cache_bytes(positions)), positions) != 0 ||
      use_workspace(model, count, 1) != 0)
    die("%s", code.gem_error());
  const float *prior = prior_of(model, plan, prompt, count);
  if (code.gem_feed(model, prompt, count, prior, logits) != 0) die("%s", code.gem_error());
  for (int64_t i = 0; i < wanted; ++i) {
    int32_t best = 0;
    for (int32_t t = 1; t < facts->vocabulary; ++t)
      if (logits[t] > logits[best]) best = t;
    printf(i ? " %d" : "%d", best);
    fflush(stdout);
    if (i + 1 < wanted && code.gem_feed(model, &best, 1, prior, logits) != 0) die("%s", code.gem_error());
  }
  putchar('\n');
  return 0;
}

int main(int count, char **words) {
  if (count == 4 && strcmp(words[1], "serve") == 0) return serve(open_model(words[2]), atoi(words[3]));
  if (count > 4 && strcmp(words[1], "generate") == 0) {
    int64_t tokens = count - 4;
    int32_t *prompt = page_memory((size_t)tokens * sizeof(int32_t));
    for (int64_t i = 0; i < tokens; ++i) prompt[i] = atoi(words[4 + i]);
    return generate(words[2], atoi(words[3]), prompt, tokens);
  }
  fputs("usage: gem-runner serve PLAN DESCRIPTOR | generate PLAN COUNT TOKEN...\n", stderr);
  return 2;
}
