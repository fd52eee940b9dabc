// Threads for the parallel loops of a compiled model, linked into its library.
//
// TVM's own pool gives every thread one fixed share and yields until all are done: when another process
// takes a core, each of the hundreds of loops of a token waits for a time slice. Here a loop is cut into
// more tasks than threads; each thread takes those of its own share in order, so that it reads memory as
// one stream, and then those that others have left; and the caller takes part. So a thread that does not
// run delays nobody. Threads spin for some microseconds between loops, and then sleep.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <mutex>
#include <thread>

extern "C" {

struct TVMParallelGroupEnv {
  void* sync_handle;
  int32_t num_task;
};
typedef int (*ParallelLambda)(int task, TVMParallelGroupEnv* environment, void* data);
typedef int (*ParallelLaunch)(ParallelLambda lambda, void* data, int tasks);

// The generated code calls through this pointer; TVM's runtime points it to its own pool.
extern ParallelLaunch __TVMBackendParallelLaunch;
}

namespace {

constexpr int kTasksPerThread = 6;  // tiles often come in multiples of 12
constexpr int kSpins = 2000;  // of one pause each: some 20 to 50 microseconds
constexpr int kMostThreads = 256;
constexpr int kMostTasks = 0xffff;

// What is left of one thread's share in one word, so that a thread that is late can take nothing from
// another loop: the loop's number, the end of the share, and the next task.
constexpr uint64_t Pack(uint32_t loop, uint32_t end, uint32_t next) {
  return (uint64_t(loop) << 32) | (uint64_t(end) << 16) | next;
}
constexpr uint32_t Loop(uint64_t share) { return uint32_t(share >> 32); }
constexpr uint32_t End(uint64_t share) { return uint32_t(share >> 16) & 0xffff; }
constexpr uint32_t Next(uint64_t share) { return uint32_t(share) & 0xffff; }

struct alignas(64) Share {
  std::atomic<uint64_t> left{0};
};

Share shares[kMostThreads];
std::atomic<uint32_t> current{0};  // number of the current loop, to sleep on
std::atomic<uint32_t> finished{0};  // tasks that are done, to sleep on
std::atomic<int> sleepers{0};
std::atomic<int> caller_sleeps{0};
std::atomic<int> failures{0};
ParallelLambda lambda;
void* data;
int total = 0;  // tasks of the loop
int threads = 1;
int workers = 0;
std::mutex busy;  // held while a loop runs: a second caller at the same time works alone

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

void Sleep(std::atomic<uint32_t>* word, uint32_t seen) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}

void Wake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Take tasks of loop `loop` until there are none: first those of share `own`.
void Work(uint32_t loop, int own) {
  for (int i = 0; i < threads; ++i) {
    std::atomic<uint64_t>& share = shares[(own + i) % threads].left;
    uint64_t seen = share.load(std::memory_order_acquire);
    while (Loop(seen) == loop && Next(seen) < End(seen)) {
      if (!share.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
      // The caller waits for this task, so the loop's data stay as they are.
      TVMParallelGroupEnv environment{nullptr, total};
      if (lambda(int(Next(seen)), &environment, data) != 0) failures.fetch_add(1);
      if (finished.fetch_add(1) + 1 == uint32_t(total) && caller_sleeps.load()) Wake(&finished);
      seen = share.load(std::memory_order_acquire);
    }
  }
}

void Worker(int index) {
  uint32_t done = current.load();
  for (;;) {
    uint32_t loop = current.load(std::memory_order_acquire);
    for (int i = 0; loop == done && i < kSpins; ++i) {
      Pause();
      loop = current.load(std::memory_order_acquire);
    }
    if (loop == done) {
      sleepers.fetch_add(1);
      Sleep(&current, done);
      sleepers.fetch_sub(1);
      continue;
    }
    done = loop;
    if (index < threads - 1) Work(loop, index + 1);
  }
}

int Launch(ParallelLambda function, void* arguments, int wanted) {
  int tasks = wanted > 0 ? wanted : threads == 1 ? 1 : threads * kTasksPerThread;
  std::unique_lock<std::mutex> lock(busy, std::defer_lock);
  if (threads == 1 || tasks == 1 || tasks > kMostTasks || !lock.try_lock()) {
    TVMParallelGroupEnv environment{nullptr, tasks};
    for (int i = 0; i < tasks; ++i) {
      if (function(i, &environment, arguments) != 0) return -1;
    }
    return 0;
  }
  lambda = function;
  data = arguments;
  failures.store(0);
  finished.store(0);
  total = tasks;
  uint32_t loop = current.load() + 1;
  for (int i = 0; i < threads; ++i) {
    uint64_t share = Pack(loop, uint32_t(tasks * (i + 1) / threads), uint32_t(tasks * i / threads));
    shares[i].left.store(share, std::memory_order_release);
  }
  current.store(loop);
  if (sleepers.load() > 0) Wake(&current);
  Work(loop, 0);
  for (int i = 0; finished.load(std::memory_order_acquire) != uint32_t(tasks); ++i) {
    if (i < kSpins) {
      Pause();
      continue;
    }
    caller_sleeps.store(1);
    uint32_t seen = finished.load();
    if (seen != uint32_t(tasks)) Sleep(&finished, seen);
    caller_sleeps.store(0);
  }
  return failures.load() == 0 ? 0 : -1;
}

}  // namespace

// Use this pool with `count` threads, the caller's included. Not while a loop runs.
extern "C" int gem_use_threads(int count) {
  if (count < 1 || count > kMostThreads) return -1;
  threads = count;
  for (; workers < count - 1; ++workers) std::thread(Worker, workers).detach();
  __TVMBackendParallelLaunch = Launch;
  return 0;
}
