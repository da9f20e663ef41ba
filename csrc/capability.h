// Which of the compiled instruction sets the kernels use: the best that the machine has, unless forced.
#pragma once
#include <cstdint>

#define LIFTER_API __attribute__((visibility("default")))

namespace lifter {

enum class Capability { baseline, avx2, avx512, avx512_bf16 };  // the last adds products of bfloat16 to the third

Capability capability();

// For lifter._C: names, and the yardstick of the scan (seconds for `count` exponentials, by the scan's own vector code).
LIFTER_API const char* cpu_capability();
LIFTER_API const char* max_cpu_capability();
LIFTER_API void set_cpu_capability(const char* name);  // std::invalid_argument unless this machine can run it
LIFTER_API double time_exponentials(int64_t count);

}  // namespace lifter

// A kernel is compiled once per capability, each time in the namespace of that name; where there is but one, it is baseline.
#ifdef LIFTER_DISPATCH
#define LIFTER_KERNEL(declaration)        \
  namespace lifter::baseline { declaration; } \
  namespace lifter::avx2 { declaration; }     \
  namespace lifter::avx512 { declaration; }
#define LIFTER_CALL(kernel, ...)                                                          \
  switch (::lifter::capability()) {                                                       \
    case ::lifter::Capability::avx512_bf16:                                               \
    case ::lifter::Capability::avx512: ::lifter::avx512::kernel(__VA_ARGS__); break;      \
    case ::lifter::Capability::avx2: ::lifter::avx2::kernel(__VA_ARGS__); break;          \
    default: ::lifter::baseline::kernel(__VA_ARGS__);                                     \
  }
#else
#define LIFTER_KERNEL(declaration) \
  namespace lifter::baseline { declaration; }
#define LIFTER_CALL(kernel, ...) ::lifter::baseline::kernel(__VA_ARGS__)
#endif
