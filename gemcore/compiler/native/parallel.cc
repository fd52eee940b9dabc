// Threads for the parallel loops of a compiled model, linked into its library.
//
// TVM's own pool gives every thread one fixed share and yields until all are done: when another process
// takes a core, each of the hundreds of loops of a token waits for a time slice. Here a loop is cut into
// more tasks than threads, whoever is free takes the next one, and the caller takes part, so a thread
// that does not run delays nobody. Threads spin for some microseconds between loops, and then sleep.

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

constexpr int kTasksPerThread = 4;
constexpr int kSpins = 2000;  // of one pause each: some 20 to 50 microseconds
constexpr int kMostThreads = 256;
constexpr int kMostTasks = 0xffff;

// State of the current loop in one word, so that a thread that is late can take nothing from another
// loop: its number, how many tasks it has, and how many of them are taken.
constexpr uint64_t Pack(uint32_t loop, uint32_t tasks, uint32_t taken) {
  return (uint64_t(loop) << 32) | (uint64_t(tasks) << 16) | taken;
}
constexpr uint32_t Loop(uint64_t state) { return uint32_t(state >> 32); }
constexpr uint32_t Tasks(uint64_t state) { return uint32_t(state >> 16) & 0xffff; }
constexpr uint32_t Taken(uint64_t state) { return uint32_t(state) & 0xffff; }

std::atomic<uint64_t> state{0};
std::atomic<uint32_t> current{0};  // number of the current loop, to sleep on
std::atomic<uint32_t> finished{0};  // tasks that are done, to sleep on
std::atomic<int> sleepers{0};
std::atomic<int> caller_sleeps{0};
std::atomic<int> failures{0};
ParallelLambda lambda;
void* data;
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

// Take tasks of loop `loop` until there are none.
void Work(uint32_t loop) {
  for (;;) {
    uint64_t seen = state.load(std::memory_order_acquire);
    if (Loop(seen) != loop || Taken(seen) >= Tasks(seen)) return;
    if (!state.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
    // The caller waits for this task, so the loop's data stay as they are.
    TVMParallelGroupEnv environment{nullptr, int32_t(Tasks(seen))};
    if (lambda(int(Taken(seen)), &environment, data) != 0) failures.fetch_add(1);
    if (finished.fetch_add(1) + 1 == Tasks(seen) && caller_sleeps.load()) Wake(&finished);
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
    if (index < threads - 1) Work(loop);
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
  uint32_t loop = current.load() + 1;
  state.store(Pack(loop, uint32_t(tasks), 0), std::memory_order_release);
  current.store(loop);
  if (sleepers.load() > 0) Wake(&current);
  Work(loop);
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
