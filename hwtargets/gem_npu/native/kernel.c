// Calls one kernel on arrays that it is given, and counts what that takes.
//
// In: the number of arrays; for each its type code, bits, dimensions and sizes (int32), then its bytes.
// Out: packets, instructions and vector instructions (uint32), then the bytes of every array.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#include "counters.h"

enum { MOST_ARRAYS = 16, MOST_SIZES = 8 };

int GEM_KERNEL(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);

static void* allocate(int type, int device, uint64_t bytes, int code, int bits) {
  (void)type, (void)device, (void)code, (void)bits;
  return aligned_alloc(128, (bytes + 127) / 128 * 128);
}

static int release(int type, int device, void* place) {
  (void)type, (void)device;
  free(place);
  return 0;
}

typedef struct {
  void* handle;
  int32_t tasks;
} Parallel;
typedef int (*Task)(int, Parallel*, void*);

static int launch(Task task, void* closure, int tasks) {
  (void)tasks;
  Parallel all = {0, 1};
  return task(0, &all, closure);
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i] ? parts[i] : "", stderr);
  fputc('\n', stderr);
}

// TVM's code calls its runtime through these.
extern __attribute__((weak)) void* __TVMBackendAllocWorkspace;
extern __attribute__((weak)) void* __TVMBackendFreeWorkspace;
extern __attribute__((weak)) void* __TVMBackendParallelLaunch;

static void take(void* place, size_t bytes) {
  if (fread(place, 1, bytes, stdin) != bytes) exit(3);
}

int main(void) {
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = (void*)allocate;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = (void*)release;
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = (void*)launch;
  int32_t count;
  take(&count, sizeof count);
  static DLTensor tensors[MOST_ARRAYS];
  static TVMFFIAny arguments[MOST_ARRAYS];
  static int64_t sizes[MOST_ARRAYS][MOST_SIZES], steps[MOST_ARRAYS][MOST_SIZES];
  static size_t bytes[MOST_ARRAYS];
  if (count < 0 || count > MOST_ARRAYS) return 4;
  for (int i = 0; i < count; ++i) {
    int32_t type[3], size;
    take(type, sizeof type);
    if (type[2] < 0 || type[2] > MOST_SIZES) return 4;
    for (int k = 0; k < type[2]; ++k) take(&size, sizeof size), sizes[i][k] = size;
    int64_t step = 1;
    for (int k = type[2]; k-- > 0; step *= sizes[i][k]) steps[i][k] = step;
    bytes[i] = (size_t)step * type[1] / 8;
    void* place = allocate(0, 0, bytes[i] ? bytes[i] : 1, 0, 0);
    if (!place) return 5;
    take(place, bytes[i]);
    DLDataType dtype = {(uint8_t)type[0], (uint8_t)type[1], 1};
    tensors[i] = (DLTensor){place, {kDLCPU, 0}, type[2], dtype, sizes[i], steps[i], 0};
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_int64 = 0;
    arguments[i].v_ptr = &tensors[i];
  }
  TVMFFIAny result;
  memset(&result, 0, sizeof result);
  Counters then = gem_count();
  if (GEM_KERNEL(0, arguments, count, &result)) return 6;
  Counters used = gem_since(then);
  fwrite(&used, sizeof used, 1, stdout);
  for (int i = 0; i < count; ++i) fwrite(tensors[i].data, 1, bytes[i], stdout);
  return 0;
}
