#include "capability.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/exponentials.h"

namespace lifter {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16"};

Capability best() {
#ifdef LIFTER_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return __builtin_cpu_supports("avx512bf16") ? Capability::avx512_bf16 : Capability::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Capability::avx2;
#endif
  return Capability::baseline;
}

Capability parse(const std::string& name) {
  std::string possible;
  for (int i = 0; i <= static_cast<int>(best()); ++i) {
    if (name == kNames[i]) return static_cast<Capability>(i);
    possible += (i ? ", " : "") + std::string(kNames[i]);
  }
  throw std::invalid_argument("CPU capability: got '" + name + "', this machine can run: " + possible);
}

// An unusable LIFTER_CPU_CAPABILITY is reported by lifter/_library.py, which can raise; a static initialiser cannot.
Capability initial() {
  const char* forced = std::getenv("LIFTER_CPU_CAPABILITY");
  try {
    return forced ? parse(forced) : best();
  } catch (const std::invalid_argument&) {
    return best();
  }
}

std::atomic<Capability>& current() {
  static std::atomic<Capability> value{initial()};
  return value;
}

}  // namespace

Capability capability() { return current().load(std::memory_order_relaxed); }
const char* cpu_capability() { return kNames[static_cast<int>(capability())]; }
const char* max_cpu_capability() { return kNames[static_cast<int>(best())]; }
void set_cpu_capability(const char* name) { current() = parse(name); }

double time_exponentials(int64_t count) {
  const auto start = std::chrono::steady_clock::now();
  LIFTER_CALL(exponentials, count);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace lifter
