// The scratch memory of a task. What a kernel needs is said once, by a function `lay_out(Arena&)` that takes one array after
// another: run on an empty arena it measures, run again it places.
#pragma once
#include <stdlib.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "../parallel.h"
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

class Arena {
 public:
  // Allocates what `lay_out` takes, and places it.
  template <class F>
  explicit Arena(const F& lay_out) : size_(measure(lay_out)) {
    const int64_t bytes = (size_ * int64_t(sizeof(float)) + 63) / 64 * 64;
    if (posix_memalign(reinterpret_cast<void**>(&owned_), 64, bytes)) out_of_memory(bytes);
    data_ = owned_;
    lay_out(*this);
  }
  // A part of another arena, that has it as an array of `size` floats.
  Arena(float* data, int64_t size) : data_(data), size_(size) {}
  ~Arena() { free(owned_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // How many floats `lay_out` takes.
  template <class F>
  static int64_t measure(const F& lay_out) {
    Arena empty(nullptr, 0);
    lay_out(empty);
    return empty.used_;
  }

  // The next `count` elements, rounded up to whole vectors; null while the arena measures.
  template <class T = float>
  T* take(int64_t count) {
    float* p = data_ ? data_ + used_ : nullptr;
    const int64_t floats = padded((count * int64_t(sizeof(T)) + 3) / 4);
    used_ += floats + kGuard;
#ifdef LIFTER_CHECKED
    if (data_ && used_ > size_) arena_overrun(used_, size_);
#endif
#ifdef __SANITIZE_ADDRESS__
    if (data_) __asan_poison_memory_region(p + floats, kGuard * sizeof(float));
#endif
    return reinterpret_cast<T*>(p);
  }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr int64_t kGuard = kLanes;  // floats behind every array that nobody may touch
#else
  static constexpr int64_t kGuard = 0;
#endif
  float *owned_ = nullptr, *data_;
  int64_t size_, used_ = 0;
};

}  // namespace lifter::LIFTER_CAPABILITY
