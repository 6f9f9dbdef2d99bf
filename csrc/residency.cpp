#include "residency.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#if __has_include(<sys/mman.h>)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace dsv4 {

#if defined(MADV_DONTNEED) && defined(MADV_WILLNEED)

namespace {

constexpr uintptr_t PIECE = 512 << 10;  // Linux reads no more ahead for one request
constexpr uintptr_t REACH = 2 << 20;    // as far as one fault maps pages around it
#if defined(__linux__) && !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22  // Linux 5.14; older kernels refuse it, and pages come when touched
#endif

uintptr_t page_size() {
  static const uintptr_t size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return size;
}

Region pages_of(Region r) {  // all that hold a byte of it
  const uintptr_t page = page_size();
  return {r.first / page * page, (r.last + page - 1) / page * page};
}

// Hints: what a system does not know is not done, and only speed is lost.
void advise(Region r, int advice) {
  if (r.last > r.first) madvise(reinterpret_cast<void*>(r.first), r.last - r.first, advice);
}

// Only pages that hold nothing else.
void drop(Region r) {
  const uintptr_t page = page_size();
  advise({(r.first + page - 1) / page * page, r.last / page * page}, MADV_DONTNEED);
}

void ask_for(Region part) {
  const Region r = pages_of(part);
  for (uintptr_t at = r.first; at < r.last; at += PIECE) {
    advise({at, std::min(at + PIECE, r.last)}, MADV_WILLNEED);
  }
}

void populate([[maybe_unused]] Region part) {
#if defined(MADV_POPULATE_READ)
  advise(pages_of(part), MADV_POPULATE_READ);
#endif
}

}  // namespace

Residency::Residency(int64_t cap, int64_t fixed, std::vector<Region> mapped)
    : cap_(cap), fixed_(fixed), mapped_(std::move(mapped)) {
#if defined(__linux__)
  statm_ = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
#endif
}

Residency::~Residency() {
  if (statm_ >= 0) close(statm_);
}

bool Residency::is_mapped(Region part) const {
  return std::any_of(mapped_.begin(), mapped_.end(), [&](const Region& m) {
    return part.first >= m.first && part.last <= m.last;
  });
}

void Residency::spare(Region part) {
  if (is_mapped(part)) spare_ = part;
}

int32_t Residency::add(const std::vector<Region>& parts) {
  Unit unit;
  for (const Region& part : parts) {
    if (!is_mapped(part)) continue;
    const Region pages = pages_of(part);
#if defined(MADV_RANDOM)
    advise(pages, MADV_RANDOM);  // else each page that is touched brings neighbours along
#endif
    unit.parts.push_back(part);
    parts_[part.first] = {part.last, static_cast<int32_t>(units_.size())};
    unit.bytes += static_cast<int64_t>(pages.last - pages.first);
  }
  if (unit.parts.empty()) return -1;
  units_.push_back(std::move(unit));
  return static_cast<int32_t>(units_.size()) - 1;
}

// What the process holds beside the units now, as far as the system says.
int64_t Residency::beside() const {
  char text[128];
  const ssize_t length = statm_ < 0 ? -1 : pread(statm_, text, sizeof text - 1, 0);
  if (length <= 0) return 0;
  text[length] = 0;
  char* end = nullptr;
  std::strtoll(text, &end, 10);  // address space, then the resident set, both in pages
  return std::strtoll(end, nullptr, 10) * static_cast<int64_t>(page_size()) - held_;
}

int64_t Residency::room() const {
  int64_t other = beside();
  if (other > fixed_ && spare_.first != spare_.last) {
    drop(spare_);
    other = beside();
  }
  return cap_ - std::max(fixed_, other);
}

// A part and, as far as one fault maps pages of the cache around it, neighbours that are not held.
Region Residency::around(Region part) const {
  const auto here = parts_.find(part.first);
  Region all = part;
  for (auto next = std::next(here); next != parts_.end(); ++next) {
    if (next->first != all.last || units_[next->second.second].held) break;
    all.last = next->second.first;
    if (all.last > part.last + REACH) break;
  }
  for (auto previous = here; previous != parts_.begin();) {
    --previous;
    if (previous->second.first != all.first || units_[previous->second.second].held) break;
    all.first = previous->first;
    if (all.first + REACH < part.first) break;
  }
  return all;
}

void Residency::give_back(Unit& unit) {
  used_.erase(unit.place);
  held_ -= unit.bytes;
  unit.held = false;
  for (const Region& part : unit.parts) drop(around(part));
}

void Residency::bring(const std::vector<Unit*>& absent) {
  for (const Unit* unit : absent) {
    for (const Region& part : unit->parts) ask_for(part);
  }
  for (Unit* unit : absent) {
    for (const Region& part : unit->parts) populate(part);
    unit->place = used_.insert(used_.end(), static_cast<int32_t>(unit - units_.data()));
    unit->held = true;
    held_ += unit->bytes;
  }
  most_held_ = std::max(most_held_, held_);
  for (const Unit* unit : absent) {
    for (const Region& part : unit->parts) {  // what came along
      const Region all = around(part);
      drop({all.first, part.first});
      drop({part.last, all.last});
    }
  }
}

size_t Residency::admit(const int32_t* units, size_t count) {
  const int64_t room = this->room();
  int64_t wanted = 0, missing = 0;
  size_t admitted = 0, kept = 0;
  std::vector<Unit*> absent;
  for (; admitted < count; ++admitted) {
    if (units[admitted] < 0) continue;
    Unit& unit = units_[units[admitted]];
    if (wanted > 0 && wanted + unit.bytes > room) break;
    wanted += unit.bytes;
    if (unit.held) {
      used_.splice(used_.end(), used_, unit.place);
      ++kept;
    } else {
      absent.push_back(&unit);
      missing += unit.bytes;
    }
  }
  while (held_ + missing > room && used_.size() > kept) give_back(units_[used_.front()]);
  bring(absent);
  for (size_t i = admitted; i < count && wanted > 0; ++i) {  // as much again, while these multiply
    if (units[i] < 0) continue;
    const Unit& unit = units_[units[i]];
    wanted -= unit.bytes;
    if (unit.held) continue;
    for (const Region& part : unit.parts) ask_for(part);
  }
  return admitted;
}

#else  // no pages to give back

Residency::Residency(int64_t, int64_t, std::vector<Region>) {
  throw std::invalid_argument(
      "max_resident needs a system with madvise, which this is not: load without it");
}
Residency::~Residency() = default;
int32_t Residency::add(const std::vector<Region>&) { return -1; }
void Residency::spare(Region) {}
size_t Residency::admit(const int32_t*, size_t count) { return count; }

#endif

}  // namespace dsv4
