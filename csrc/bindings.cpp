// The functions of the library that are no ops, in plain C: lifter/_library.py calls them through ctypes. No Python header is
// included, so that one build serves every version of Python.

#include <stdexcept>
#include <string>

#include "capability.h"

extern "C" {

LIFTER_API const char* lifter_build_info() {
  return "compiler=" LIFTER_COMPILER "\ntorch=" LIFTER_TORCH "\ncapabilities=" LIFTER_CAPABILITIES
         "\ncuda_missing=" LIFTER_CUDA_MISSING "\nsanitize=" LIFTER_SANITIZE;
}

LIFTER_API const char* lifter_cpu_capability() { return lifter::cpu_capability(); }
LIFTER_API const char* lifter_max_cpu_capability() { return lifter::max_cpu_capability(); }
LIFTER_API double lifter_time_exponentials(int64_t count) { return lifter::time_exponentials(count); }

// Returns null, or why not: no exception may cross C. The text lives until the thread calls again.
LIFTER_API const char* lifter_set_cpu_capability(const char* name) {
  static thread_local std::string error;
  try {
    lifter::set_cpu_capability(name);
    return nullptr;
  } catch (const std::invalid_argument& reason) {
    return (error = reason.what()).c_str();
  }
}

}  // extern "C"
