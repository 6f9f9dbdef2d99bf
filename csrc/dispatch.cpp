// Which instruction set runs: the best that both the build and this machine have.
#include "pool.h"
#include "sublayers.h"

namespace dsv4 {

#define DSV4_DECLARE(isa) \
  namespace isa {         \
  extern const Kernels KERNELS; \
  }
DSV4_DECLARE(portable)
#if defined(DSV4_X86)
DSV4_DECLARE(avx2)
DSV4_DECLARE(avx512)
#endif

namespace {

std::vector<const Kernels*> available() {  // the best first
  std::vector<const Kernels*> found;
#if defined(DSV4_X86)
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __builtin_cpu_supports("bmi2");
  if (fma && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    found.push_back(&avx512::KERNELS);
  }
  if (fma) found.push_back(&avx2::KERNELS);
#endif
  found.push_back(&portable::KERNELS);
  return found;
}

const Kernels*& chosen() {
  static const Kernels* found = available().front();
  return found;
}

}  // namespace

const Kernels* kernels() { return chosen(); }

bool choose_kernels(const std::string& name) {
  for (const Kernels* k : available()) {
    if (name == k->name) {
      chosen() = k;
      return true;
    }
  }
  return false;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernels* k : available()) names.emplace_back(k->name);
  return names;
}

void set_threads(int threads) { Pool::instance().resize(threads); }

}  // namespace dsv4
