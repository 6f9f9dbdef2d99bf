// One call at a time: the pool and its memory serve no two.
#pragma once

#include <nanobind/nanobind.h>

#include <mutex>

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

#include "pool.h"

namespace dsv4 {

inline std::mutex running;

// A fork waits for the call that runs, so that the child finds memory whole, if not the threads.
inline void survive_forks() {
#if __has_include(<pthread.h>)
  pthread_atfork([] { running.lock(); }, [] { running.unlock(); }, [] {
    Pool::instance().forget_threads();
    running.unlock();
  });
#endif
}

template <class F>
auto alone(F&& body) {
  nanobind::gil_scoped_release free;
  std::lock_guard<std::mutex> lock(running);
  return body();
}

void define_training(nanobind::module_& m);  // training.cpp: the operators of training

}  // namespace dsv4
