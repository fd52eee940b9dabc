/* Runs a model that GEM compiled ahead of time, for whoever asks on stdin: the other end of
 * gemcore.runtime.process_executor, whose docstring describes requests and answers.
 *
 *     runner serve PLAN DESCRIPTOR
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gem.h"

enum { BIND = 1, FORWARD, PRIOR, ROUTES, FREE };

struct cache {
  void **tensors; /* NULL where the cache is not bound */
  int64_t positions;
};

static const gem_facts *facts;
static gem_model *model;
static int shared;

static void fail(const char *sentence) {
  fprintf(stderr, "%s\n", sentence);
  exit(1);
}

static void *claim(void *memory) {
  if (memory == NULL) fail("there is not enough memory");
  return memory;
}

static void *aligned(size_t bytes) {
  return claim(aligned_alloc(GEM_ALIGNMENT, (bytes / GEM_ALIGNMENT + 1) * GEM_ALIGNMENT));
}

static int take(void *into, size_t bytes) { return fread(into, 1, bytes, stdin) == bytes; }

static void *take_new(size_t bytes) {
  void *into = aligned(bytes);
  if (!take(into, bytes)) fail("a request ended early");
  return into;
}

static void answer(int32_t status, const void *data, int64_t bytes) {
  const int32_t head[2] = {status, 0};
  fwrite(head, 1, sizeof head, stdout);
  fwrite(&bytes, 1, sizeof bytes, stdout);
  fwrite(data, 1, (size_t)bytes, stdout);
  fflush(stdout);
}

static void open_model(const char *plan) {
  char line[4352], path[4096] = "";
  FILE *file = fopen(plan, "r");
  if (file == NULL) fail("the plan cannot be read");
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    if (strncmp(line, "weights ", 8) == 0 && strlen(line + 8) < sizeof path) strcpy(path, line + 8);
  }
  fclose(file);
  struct stat about;
  const int weights = open(path, O_RDONLY);
  if (weights < 0 || fstat(weights, &about) != 0) fail("the weights cannot be read");
  void *data = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, weights, 0);
  if (data == MAP_FAILED) fail("the weights cannot be mapped");
  const size_t bytes = gem_model_bytes();
  if (gem_open(aligned(bytes), bytes, data, (size_t)about.st_size, &model)) fail(gem_error());
}

static void release(struct cache *cache) {
  for (int32_t i = 0; cache->tensors != NULL && i < facts->caches; ++i) {
    munmap(cache->tensors[i], gem_cache_tensor_bytes(i, cache->positions));
  }
  free(cache->tensors);
  cache->tensors = NULL;
}

static void bind(struct cache *cache, int32_t count) {
  if (count != facts->caches) fail("a cache has another number of tensors than the model");
  release(cache);
  cache->tensors = claim(calloc((size_t)count, sizeof(void *)));
  for (int32_t i = 0; i < count; ++i) {
    int64_t given[6]; /* offset, rank, four sizes; keys come in blocks along axis 1 */
    if (!take(given, sizeof given)) fail("a request ended early");
    if (i == 0) cache->positions = given[3] * facts->block;
    const size_t bytes = gem_cache_tensor_bytes(i, cache->positions);
    cache->tensors[i] =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shared, (off_t)given[0]);
    if (cache->tensors[i] == MAP_FAILED) fail("the shared memory cannot be mapped");
  }
  answer(0, "", 0);
}

/* Give the model memory for a pass of this size; what an earlier one needed may be enough. */
static int prepare(const struct cache *cache, int64_t tokens, int64_t rows) {
  static void *workspace;
  static size_t room;
  if (cache->tensors == NULL) fail("a pass comes before its cache");
  if (gem_use_cache_tensors(model, cache->tensors, cache->positions)) return -1;
  const size_t bytes = gem_workspace_bytes(model, tokens, rows);
  if (bytes > room) {
    free(workspace);
    workspace = aligned(bytes);
    room = bytes;
  }
  return gem_use_workspace(model, workspace, room);
}

static void pass(const struct cache *cache, int32_t operation, int64_t count, int64_t row_count) {
  int32_t *tokens = take_new((size_t)count * 4);
  int32_t *placement = take_new((size_t)count * GEM_PLACEMENT * 4);
  int32_t *rows = operation == FORWARD ? take_new((size_t)row_count * 4) : NULL;
  const int routed = operation != PRIOR && facts->experts > 0;
  float *priors = routed ? take_new((size_t)(count * facts->experts) * 4) : NULL;
  int64_t size = facts->experts;
  if (operation == FORWARD) size = row_count * facts->vocabulary;
  if (operation == ROUTES) size = facts->routing * count * facts->experts;
  float *result = aligned((size_t)size * 4);
  int failed = prepare(cache, count, row_count > 0 ? row_count : 1);
  if (!failed && operation == FORWARD) {
    failed = gem_forward(model, tokens, placement, count, rows, row_count, priors, result);
  } else if (!failed && operation == PRIOR) {
    failed = gem_prior(model, tokens, placement, count, result);
  } else if (!failed) {
    failed = gem_routes(model, tokens, placement, count, priors, result);
  }
  if (failed) {
    answer(1, gem_error(), (int64_t)strlen(gem_error()));
  } else {
    answer(0, result, size * 4);
  }
  free(tokens), free(placement), free(rows), free(priors), free(result);
}

int main(int count, char **words) {
  if (count != 4 || strcmp(words[1], "serve") != 0) fail("usage: runner serve PLAN DESCRIPTOR");
  facts = gem_model_facts();
  shared = atoi(words[3]);
  open_model(words[2]);
  struct cache *caches = NULL;
  int32_t request[4], known = 0; /* operation, cache, tokens, rows */
  while (take(request, sizeof request)) {
    if (request[1] < 0 || request[1] > 65535 || request[2] < 0 || request[3] < 0) {
      fail("a request is damaged");
    }
    for (; known <= request[1]; ++known) {
      caches = claim(realloc(caches, (size_t)(known + 1) * sizeof *caches));
      caches[known] = (struct cache){NULL, 0};
    }
    struct cache *cache = &caches[request[1]];
    if (request[0] == BIND) bind(cache, request[2]);
    else if (request[0] == FREE) release(cache);
    else pass(cache, request[0], request[2], request[3]);
  }
  return 0;
}
