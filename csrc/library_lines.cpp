#include "library_lines.h"

#include <algorithm>
#include <cctype>
#include <deque>
#include <iostream>
#include <mutex>
#include <streambuf>
#include <string_view>

namespace dsv4 {
namespace {

constexpr size_t MOST = 64;  // lines

// Whether a line may begin like this, as far as it goes: "[hh:mm:ss] ".
bool may_be_timed(std::string_view line) {
  constexpr std::string_view shape = "[00:00:00] ";
  for (size_t i = 0; i < std::min(line.size(), shape.size()); ++i) {
    const bool digit = std::isdigit(static_cast<unsigned char>(line[i])) != 0;
    if (shape[i] == '0' ? !digit : line[i] != shape[i]) return false;
  }
  return true;
}

bool is_library(std::string_view line) {
  const size_t place = line.find("/cpp/");
  return may_be_timed(line) && place != line.npos && line.find(".cc:", place) != line.npos;
}

// Passes everything on to `under` but lines of the library.
class Filter : public std::streambuf {
 public:
  explicit Filter(std::streambuf* under) : under_(under) {}

  std::vector<std::string> take() {
    const std::lock_guard held(lock_);
    std::vector<std::string> lines(kept_.begin(), kept_.end());
    kept_.clear();
    return lines;
  }

 protected:
  int_type overflow(int_type c) override {
    if (traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    const char letter = traits_type::to_char_type(c);
    return xsputn(&letter, 1) == 1 ? c : traits_type::eof();
  }

  std::streamsize xsputn(const char* text, std::streamsize count) override {
    thread_local std::string line;  // that may be the library's: another thread's is another
    thread_local bool passes = false;  // the rest of a line that is not
    for (std::streamsize i = 0; i < count; ++i) {
      line += text[i];
      passes = passes || !may_be_timed(line);
      if (text[i] == '\n' && !passes && is_library(line)) {
        line.pop_back();
        keep(line);
        line.clear();
      } else if (text[i] == '\n' || (passes && i + 1 == count)) {
        const std::lock_guard held(lock_);
        under_->sputn(line.data(), static_cast<std::streamsize>(line.size()));
        line.clear();
      }
      if (text[i] == '\n') passes = false;
    }
    return count;
  }

  int sync() override {
    const std::lock_guard held(lock_);
    return under_->pubsync();
  }

 private:
  void keep(const std::string& line) {
    const std::lock_guard held(lock_);
    kept_.push_back(line);
    if (kept_.size() > MOST) kept_.pop_front();
  }

  std::streambuf* const under_;
  std::mutex lock_;
  std::deque<std::string> kept_;
};

Filter* filter = nullptr;

}  // namespace

void keep_library_lines() {
  static std::once_flag once;
  // never freed: what ends later than this module may still speak
  std::call_once(once, [] { std::cerr.rdbuf(filter = new Filter(std::cerr.rdbuf())); });
}

std::vector<std::string> take_library_lines() {
  return filter == nullptr ? std::vector<std::string>{} : filter->take();
}

}  // namespace dsv4
