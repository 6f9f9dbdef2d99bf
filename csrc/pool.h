// A pool of threads for regions of a few microseconds: workers spin between them, then sleep.
// run(n, grain, f) calls f(task, worker) for every task < n; each task is one thread's work from start to
// end, so results do not depend on how many threads there are.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace dsv4 {

class Pool {
 public:
  static Pool& instance();
  static Pool& alone();  // for work inside a task: no threads of its own
  ~Pool() { resize(1); }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  void resize(int threads);
  // In a process that was forked while no region was open: the threads stayed behind. As many are
  // started when the pool is next asked for.
  void forget_threads();

  // `grain` tasks are taken at a time; so many or fewer are not worth a second thread. What a task
  // throws is thrown here, once all threads are out of the region.
  template <class F>
  void run(int64_t tasks, int64_t grain, F&& body) {
    if (tasks <= grain || workers_.empty()) {
      for (int64_t task = 0; task < tasks; ++task) body(task, 0);
      return;
    }
    using Body = std::remove_reference_t<F>;
    call_ = [](void* context, int64_t task, int worker) {
      (*static_cast<Body*>(context))(task, worker);
    };
    context_ = const_cast<void*>(static_cast<const void*>(&body));
    region(tasks, grain);
  }

 private:
  void region(int64_t tasks, int64_t grain);
  void work(int worker);
  void claim(int worker);

  std::vector<std::thread> workers_;
  void (*call_)(void*, int64_t, int) = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0, grain_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> region_{0};  // odd while a region is open
  alignas(64) std::atomic<int> inside_{0};       // workers that look at the open region
  alignas(64) std::atomic<int> asleep_{0};
  std::atomic<bool> stop_{false}, failed_{false};
  std::exception_ptr failure_;  // the first
  int forgotten_ = 0;
};

}  // namespace dsv4
