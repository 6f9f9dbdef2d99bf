#include "pool.h"

#include <algorithm>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dsv4 {
namespace {

constexpr int SPINS = 4000;  // pauses before a worker sleeps: some tens of microseconds

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

}  // namespace

Pool& Pool::instance() {
  static Pool pool;
  if (pool.forgotten_ > 0) pool.resize(std::exchange(pool.forgotten_, 0));
  return pool;
}

Pool& Pool::alone() {
  static Pool pool;
  return pool;
}

void Pool::forget_threads() {
  if (workers_.empty()) return;
  forgotten_ = threads();
  new std::vector<std::thread>(std::move(workers_));  // never joined, never destroyed
  workers_.clear();
  region_ = 0;
  inside_ = asleep_ = 0;
}

void Pool::resize(int threads) {
  forgotten_ = 0;
  if (threads < 1) threads = 1;
  if (threads == this->threads()) return;
  stop_ = true;
  region_.fetch_add(2);
  region_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
  stop_ = false;
  for (int worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { work(worker); });
  }
}

void Pool::claim(int worker) {
  try {
    for (;;) {
      const int64_t first = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (first >= tasks_) return;
      const int64_t last = std::min(first + grain_, tasks_);
      for (int64_t task = first; task < last; ++task) call_(context_, task, worker);
    }
  } catch (...) {  // most likely no memory; the tasks that are left are left
    next_.store(tasks_, std::memory_order_relaxed);
    if (!failed_.exchange(true)) failure_ = std::current_exception();
  }
}

void Pool::region(int64_t tasks, int64_t grain) {
  tasks_ = tasks;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  region_.fetch_add(1);  // opens: a worker that reads the odd number sees the fields above
  if (asleep_.load() > 0) region_.notify_all();
  claim(0);
  region_.fetch_add(1);  // closes: a worker that has not come yet will not
  while (inside_.load() > 0) pause_cpu();
  if (failed_.load(std::memory_order_relaxed)) {
    failed_ = false;
    std::rethrow_exception(std::exchange(failure_, nullptr));
  }
}

void Pool::work(int worker) {
  uint32_t seen = region_.load();
  while (!stop_) {
    uint32_t now = region_.load();
    for (int spin = 0; now == seen && spin < SPINS; ++spin) {
      pause_cpu();
      now = region_.load(std::memory_order_acquire);
    }
    if (now == seen) {
      asleep_.fetch_add(1);
      region_.wait(seen);
      asleep_.fetch_sub(1);
      continue;
    }
    seen = now;
    if (now % 2 == 0) continue;
    inside_.fetch_add(1);
    if (region_.load() == now) claim(worker);
    inside_.fetch_sub(1);
  }
}

}  // namespace dsv4
