// Torch's thread pool for kernels that must not see torch's headers (they are compiled with other machine flags).
#pragma once
#include <cstdint>

namespace lifter {

void parallel_for_raw(int64_t count, void (*body)(int64_t begin, int64_t end, void* context), void* context);

// These throw; here because a kernel compiled for AVX-512 must not hold copies of the standard library's exceptions.
[[noreturn]] void out_of_memory(int64_t bytes);
[[noreturn]] void arena_overrun(int64_t used, int64_t size);

// Calls f(begin, end) for contiguous ranges that cover [0, count), one per thread.
template <class F>
static inline void parallel_ranges(int64_t count, const F& f) {
  parallel_for_raw(
      count, [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<F*>(&f));
}

// Calls f(i) for every i in [0, count), split over the threads in contiguous ranges.
template <class F>
static inline void parallel_for(int64_t count, const F& f) {
  parallel_ranges(count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

}  // namespace lifter
