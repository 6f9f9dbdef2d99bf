// Memory that a call takes piece by piece and gives back whole; it is kept for the next call.
#pragma once

#include <algorithm>
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

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    int64_t size = 0;
  };

  void* bytes(int64_t count) {
    count = (count + 63) / 64 * 64 + 64;  // a vector may be read past the end
    if (at_ == blocks_.size() || used_ + count > blocks_[at_].size) next_block(count);
    void* found = static_cast<char*>(blocks_[at_].data.get()) + used_;
    used_ += count;
    return found;
  }

  // An empty block with room for `count` bytes. One that is too small is replaced, since what is
  // asked for grows with the context, a little each time, and small ones would pile up.
  void next_block(int64_t count) {
    if (used_ > 0) ++at_;
    used_ = 0;
    if (at_ == blocks_.size()) blocks_.emplace_back();
    Block& block = blocks_[at_];
    if (count <= block.size) return;
    block = {};  // first, so that both are never held
    const int64_t size = std::max<int64_t>((count + count / 4 + 63) / 64 * 64, 1 << 20);
    block.data.reset(std::aligned_alloc(64, size));
    if (block.data == nullptr) throw std::bad_alloc();
    block.size = size;
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
inline Arena& caller_arena() {
  thread_local Arena arena;
  return arena;
}

}  // namespace dsv4
