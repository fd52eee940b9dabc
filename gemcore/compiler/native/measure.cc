// What `gem bench --profile` measures with, linked into every compiled model: a clock that TVM's virtual
// machine calls around each kernel, and a plain read of memory by the model's own threads, which is the
// limit that kernels are held against. Beside them, additions that tell the processor's clock. Nothing here
// runs unless somebody asks for a profile or a prediction.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

extern "C" {

struct TVMParallelGroupEnv {
  void* sync_handle;
  int32_t num_task;
};
typedef int (*ParallelLambda)(int task, TVMParallelGroupEnv* environment, void* data);
typedef int (*ParallelLaunch)(ParallelLambda lambda, void* data, int tasks);

// As for the loops of the model; see parallel.cc.
extern ParallelLaunch __TVMBackendParallelLaunch;
}

namespace {

int64_t* times = nullptr;
int64_t capacity = 0;
int64_t recorded = 0;

typedef uint64_t Vector128 __attribute__((vector_size(16), may_alias));
typedef uint64_t Vector256 __attribute__((vector_size(32), may_alias));
typedef uint64_t Vector512 __attribute__((vector_size(64), may_alias));
constexpr int kLine = 64;  // bytes of a cache line, and of the widest vector

// Read `bytes` as `Streams` runs side by side, asking for memory `Ahead` bytes before it is needed, or
// leaving that to the processor where `Ahead` is zero, or for all lines of a step at its beginning where
// it is negative. Inlined into callers for one instruction set each.
template <typename Vector, int Streams, int Ahead>
inline __attribute__((always_inline)) uint64_t Read(const char* memory, int64_t bytes) {
  constexpr int kStep = kLine * 8 / Streams;
  Vector sums[8] = {};
  const int64_t run = bytes / Streams / kStep * kStep;
  for (int64_t i = 0; i < run; i += kStep) {
    if (Ahead < 0) {
#pragma GCC unroll 8
      for (int line = 0; line < 8; ++line) __builtin_prefetch(memory + i + line * kLine, 0, 0);
    }
#pragma GCC unroll 8
    for (int line = 0; line < 8; ++line) {
      const char* at = memory + line % Streams * run + i + line / Streams * kLine;
      if (Ahead > 0) __builtin_prefetch(at + Ahead, 0, 0);
#pragma GCC unroll 4
      for (int part = 0; part < kLine; part += int(sizeof(Vector))) {
        sums[line] ^= *reinterpret_cast<const Vector*>(at + part);
      }
    }
  }
  Vector total = {};
  for (const Vector& sum : sums) total ^= sum;
  uint64_t parts[sizeof(Vector) / 8], result = 0;
  std::memcpy(parts, &total, sizeof(Vector));
  for (uint64_t part : parts) result ^= part;
  return result;
}

template <typename Vector>
inline __attribute__((always_inline)) uint64_t ReadIn(int way, const char* memory, int64_t bytes) {
  switch (way) {
    case 0: return Read<Vector, 1, 0>(memory, bytes);
    case 1: return Read<Vector, 1, 512>(memory, bytes);
    case 2: return Read<Vector, 1, -1>(memory, bytes);
    case 3: return Read<Vector, 2, 1024>(memory, bytes);
    default: return Read<Vector, 4, 1024>(memory, bytes);
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t Read512(int way, const char* memory, int64_t bytes) {
  return ReadIn<Vector512>(way, memory, bytes);
}
__attribute__((target("avx2"))) uint64_t Read256(int way, const char* memory, int64_t bytes) {
  return ReadIn<Vector256>(way, memory, bytes);
}
#endif

uint64_t ReadPart(int way, const char* memory, int64_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return Read512(way, memory, bytes);
  if (__builtin_cpu_supports("avx2")) return Read256(way, memory, bytes);
#endif
  return ReadIn<Vector128>(way, memory, bytes);
}

struct Reading {
  const char* memory;
  int64_t bytes;
  int way;
};

volatile uint64_t seen;  // so that no read is left out

int ReadTask(int task, TVMParallelGroupEnv* environment, void* data) {
  const Reading& reading = *static_cast<const Reading*>(data);
  const int64_t part = reading.bytes / environment->num_task / kLine * kLine;
  seen = ReadPart(reading.way, reading.memory + task * part, part);
  return 0;
}

int64_t Now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// Each addition waits for the one before it, and takes one cycle on every processor that GEM knows. The
// number that is added is in a register: some processors add constants in no time at all.
uint64_t Add(int64_t count) {
  constexpr int kStep = 64;
  uint64_t total = 0, one = 1;
  for (; count > 0; count -= kStep) {
#pragma GCC unroll 64
    for (int step = 0; step < kStep; ++step) {
#if defined(__x86_64__)
      asm volatile("add %1, %0" : "+r"(total) : "r"(one));
#elif defined(__aarch64__)
      asm volatile("add %0, %0, %1" : "+r"(total) : "r"(one));
#endif
    }
  }
  return total;
}

struct Adding {
  int64_t count;
  std::atomic<int64_t> nanoseconds;
};

// Every thread keeps its own time, of the shortest of many rounds: waking the threads is not in it.
int AddTask(int, TVMParallelGroupEnv*, void* data) {
  Adding& adding = *static_cast<Adding*>(data);
  int64_t best = INT64_MAX;
  for (int round = 0; round < 64; ++round) {
    const int64_t begin = Now();
    seen = Add(adding.count);
    best = std::min(best, Now() - begin);
  }
  int64_t known = adding.nanoseconds.load();
  while (known < best && !adding.nanoseconds.compare_exchange_weak(known, best)) {
  }
  return 0;
}

}  // namespace

// Nanoseconds that `count` additions take, a multiple of 64, on the slowest of all threads: as many cycles.
extern "C" int64_t gem_add(int64_t count) {
  Adding adding{count, {0}};
  __TVMBackendParallelLaunch(AddTask, &adding, 0);
  return adding.nanoseconds.load();
}

// Read `bytes` of `memory`, aligned to 64, once with all threads. `way`, 0 to 4, is how: which is the
// fastest depends on the processor.
extern "C" int gem_read_memory(const void* memory, int64_t bytes, int way) {
  Reading reading{static_cast<const char*>(memory), bytes, way};
  return __TVMBackendParallelLaunch(ReadTask, &reading, 0);
}

// Write the times of what follows to `into`, which has room for `room` of them.
extern "C" void gem_record_into(int64_t* into, int64_t room) {
  times = into;
  capacity = room;
  recorded = 0;
}

// How many times there were since, even if there was no room for them.
extern "C" int64_t gem_recorded() { return recorded; }

// The instrument, as a packed function of TVM: called before and after everything that the virtual
// machine calls. It keeps the time in nanoseconds, and leaves its result as it is: none.
extern "C" int __tvm_ffi_gem_record(void*, const void*, int32_t, void*) {
  if (recorded < capacity) times[recorded] = Now();
  ++recorded;
  return 0;
}
