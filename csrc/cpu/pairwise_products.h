// The products of all pairs of a clip's frames: symmetric, so that half of them are computed.
#pragma once
#include "gemm.h"

namespace lifter::LIFTER_CAPABILITY {

// Tasks of a clip, which may run at once: first all of `pack`, then all of `multiply`.
template <class T, class Unit>
class PairwiseProducts {
  using Op = Operand<Unit>;
  static constexpr int64_t kUnits = 128;  // of a frame, packed by a task

 public:
  static constexpr int64_t kRows = 16;  // of products, by a task: few, since the square on the diagonal is computed twice

  PairwiseProducts(int64_t frames, int64_t channels)
      : width(padded(frames)), ld(leading_dimension(frames)), units(Op::depth(channels)),
        pack_tasks((units + kUnits - 1) / kUnits), multiply_tasks((frames + kRows - 1) / kRows), frames_(frames),
        channels_(channels) {}

  const int64_t width, ld;  // of rows of products: what is computed of them, the frames padded; their distance
  const int64_t units;          // the rows of the packed clip, as far apart
  const int64_t pack_tasks, multiply_tasks;

  // The first row of a task of `multiply`. The first rows have the most products: they take turns with the last, so that
  // all threads get about as many.
  int64_t first_row(int64_t task) const { return (task % 2 ? multiply_tasks - 1 - task / 2 : task / 2) * kRows; }

  // A task's units of the clip at `x`, transposed. What comes next is fetched, as in load_rows. `centred`: floats are
  // measured from the mean of a few of the clip's frames. Pairs are not: bfloat16 has rounded more before.
  void pack(const T* x, int64_t stride, int64_t task, bool centred, float* packed) const {
    constexpr int64_t kOfUnit = Op::kPairs ? 2 : 1, kLine = 64 / sizeof(T), kPrefetchRows = 12, kSample = 16;
    const int64_t first = task * kUnits, count = smaller(kUnits, units - first);
    const int64_t some = smaller(kOfUnit * count, channels_ - kOfUnit * first);
    x += kOfUnit * first;
    alignas(64) float mean[kUnits] = {}, rows[kLanes * kUnits] = {};
    if (!Op::kPairs && centred) {
      const int64_t step = (frames_ + kSample - 1) / kSample, sample = (frames_ + step - 1) / step;
      for (int64_t t = 0; t < frames_; t += step)
        for (int64_t j = 0; j < count; j += kLanes)
          store(mean + j, load(mean + j) + load_some(x + t * stride + j, count - j) * (1.0f / sample));
    }
    for (int64_t t = 0; t < frames_; t += kLanes) {
      const int64_t ready = smaller(kLanes, frames_ - t);
      for (int64_t i = 0; i < ready; ++i) {
        const T* row = x + (t + i) * stride;
        for (int64_t j = 0; j < some; j += kLine) __builtin_prefetch(row + kPrefetchRows * stride + j, 0, 2);
        if (Op::kPairs) {
          memcpy(rows + i * kUnits, row, some * sizeof(T));
        } else {
          for (int64_t j = 0; j < count; j += kLanes)
            store(rows + i * kUnits + j, load_some(row + j, count - j) - load(mean + j));
        }
      }
      transpose_rows(rows, kUnits, ready, count, packed + first * ld + t, ld);
    }
  }

  // A task's rows of products from the diagonal on, and the same as columns. Every product sums in the same order: equal
  // frames have equal ones.
  void multiply(const float* packed, int64_t task, float* pairs) const {
    const int64_t first = first_row(task), rows = smaller(kRows, frames_ - first), next = first + kRows;
    float* to = pairs + first * ld;
    gemm(rows, width - first, units, Op::of(packed + first), 1, ld, Op::of(packed + first), ld, to + first, ld);
    if (next < frames_) transpose_rows(to + next, ld, rows, frames_ - next, pairs + next * ld + first, ld);
  }

 private:
  const int64_t frames_, channels_;
};

}  // namespace lifter::LIFTER_CAPABILITY
