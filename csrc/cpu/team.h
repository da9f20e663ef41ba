// Threads that go through many short steps together. A step through torch's pool costs 2 us, which is as much as a step of a
// small network takes; here one loop of the pool serves all steps and hands them out through one word of memory. It also waits
// for no thread that the system has taken away: one window of mixsynth_encoder (h36m, AVX2) on two threads of two cores with
// 15 other processes takes 44 ms in the median of 8 runs, and 400 ms with a `parallel_for` for every step.
#pragma once
#include "simd.h"

namespace lifter::LIFTER_CAPABILITY {

class Team {
 public:
  explicit Team(int64_t size) : size_(smaller(size, kMost)) {}
  int64_t size() const { return size_; }

  // Calls f(), which may call `split`, on the first thread to come; the others help. It waits for no thread that has not
  // begun some part, so it ends even where the pool has fewer threads, or runs one after another.
  template <class F>
  void run(const F& f) {
    if (size_ == 1) return f();
    parallel_for(size_, [&](int64_t member) {
      const FlushDenormals flush;
      if (__atomic_exchange_n(&led_, true, __ATOMIC_ACQ_REL)) return help(member);
      leader_ = member;
      f();
      __atomic_store_n(&state_, kOver, __ATOMIC_RELEASE);
    });
  }

  // Calls f(part) for every part in [0, size), each on one of the threads, and returns when all are done.
  template <class F>
  void split(const F& f) {
    if (size_ == 1) return f(0);
    step_ = [](const void* context, int64_t part) { (*static_cast<const F*>(context))(part); };
    context_ = &f;
    done_ = 0;
    ++number_;
    __atomic_store_n(&state_, number_ << kMost, __ATOMIC_RELEASE);
    while (take(leader_)) {}
    while (__atomic_load_n(&done_, __ATOMIC_ACQUIRE) != size_) pause();
  }

 private:
  static constexpr int64_t kMost = 32;
  static constexpr uint64_t kOver = ~uint64_t{0};

  void help(int64_t member) {
    while (__atomic_load_n(&state_, __ATOMIC_ACQUIRE) != kOver)
      if (!take(member)) pause();
  }

  // Does one part, that of this number if nobody has begun it; false if all are begun.
  bool take(int64_t member) {
    uint64_t state = __atomic_load_n(&state_, __ATOMIC_ACQUIRE);
    const uint64_t all = (uint64_t{1} << size_) - 1, open = ~state & all;
    if (!open) return false;
    const int64_t part = open >> member & 1 ? member : __builtin_ctzll(open);
    // The number of the step is in it: a part of an earlier one is not begun by mistake.
    if (__atomic_compare_exchange_n(&state_, &state, state | uint64_t{1} << part, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
      step_(context_, part);
      __atomic_fetch_add(&done_, 1, __ATOMIC_RELEASE);
    }
    return true;
  }

  static void pause() {
#ifdef __SSE__
    _mm_pause();
#endif
  }

  const int64_t size_;
  bool led_ = false;
  int64_t leader_ = 0;
  void (*step_)(const void*, int64_t) = nullptr;
  const void* context_ = nullptr;
  uint64_t number_ = 0;  // of the step
  alignas(64) uint64_t state_ = ~uint64_t{0} >> kMost;  // the step, and below it a bit for every part that is begun
  alignas(64) int64_t done_ = 0;
};

}  // namespace lifter::LIFTER_CAPABILITY
