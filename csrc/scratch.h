// Memory that a call takes piece by piece and gives back whole; it is kept for the next call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace dsv4 {

class Arena {
 public:
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // What was taken since is free again.
  struct Mark {
    size_t block;
    int64_t used;
  };
  Mark mark() const { return {at_, used_}; }
  void release(Mark mark) {
    at_ = mark.block;
    used_ = mark.used;
  }
  int64_t capacity() const {
    int64_t total = 0;
    for (const auto& block : blocks_) total += block.size;
    return total;
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    int64_t size;
  };

  void* bytes(int64_t count) {
    count = (count + 63) / 64 * 64 + 64;  // a vector may be read past the end
    while (at_ < blocks_.size() && used_ + count > blocks_[at_].size) {
      ++at_;
      used_ = 0;
    }
    if (at_ == blocks_.size()) {
      const int64_t size = std::max<int64_t>(count, 1 << 20);
      void* data = std::aligned_alloc(64, size);
      if (data == nullptr) throw std::bad_alloc();
      blocks_.push_back({std::unique_ptr<void, Free>(data), size});
      used_ = 0;
    }
    void* found = static_cast<char*>(blocks_[at_].data.get()) + used_;
    used_ += count;
    return found;
  }

  std::vector<Block> blocks_;
  size_t at_ = 0;
  int64_t used_ = 0;
};

// Gives back, at the end of a scope, what was taken in it.
class Scope {
 public:
  explicit Scope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~Scope() { arena_.release(mark_); }
  Scope(const Scope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

// One arena for each worker of the pool, and one for the caller.
inline Arena& worker_arena() {
  thread_local Arena arena;
  return arena;
}

}  // namespace dsv4
