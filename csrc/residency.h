// Experts in memory where not all of them may be: the least recently used are given back.
//
//   bytes of units in memory ≤ cap − max(fixed, what else the process holds now)
//
// A unit is one matrix of one expert: the pages of mapped files that hold its bytes and scales.
// They are never written, so a page that was given back is read again when it is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <vector>

namespace dsv4 {

struct Region {
  uintptr_t first = 0, last = 0;  // addresses
};

class Residency {
 public:
  // `fixed`: what the process is taken to hold beside the units at least; only pages of `mapped`
  // are ever given back. Throws std::invalid_argument where the system cannot do that.
  Residency(int64_t cap, int64_t fixed, std::vector<Region> mapped);
  ~Residency();
  Residency(const Residency&) = delete;

  // A new unit's number; −1, for what is always in memory, if no part lies in mapped files.
  int32_t add(const std::vector<Region>& parts);
  // Given back before any unit when memory is short: the embedding, of which rows are read.
  void spare(Region part);

  // Brings the first units into memory, as many as fit and at least one, and asks for the next
  // ones ahead; returns how many. −1 fits always.
  size_t admit(const int32_t* units, size_t count);

  int64_t held() const { return held_; }
  int64_t most_held() const { return most_held_; }

 private:
  struct Unit {
    std::vector<Region> parts;  // to the byte; what is asked of the system is whole pages
    int64_t bytes = 0;
    bool held = false;
    std::list<int32_t>::iterator place;  // in used_, where held
  };

  bool is_mapped(Region part) const;
  Region around(Region part) const;
  int64_t room() const;
  int64_t beside() const;
  void give_back(Unit& unit);
  void bring(const std::vector<Unit*>& absent);

  int64_t cap_, fixed_, held_ = 0, most_held_ = 0;
  int statm_ = -1;  // /proc/self/statm, where there is one
  std::vector<Region> mapped_;
  Region spare_;
  std::vector<Unit> units_;
  std::map<uintptr_t, std::pair<uintptr_t, int32_t>> parts_;  // first → last, unit
  std::list<int32_t> used_;  // units in memory, the least recently used first
};

}  // namespace dsv4
