// The softmax of attention, a row of scores at a time.
#pragma once
#include <math.h>

#include "gemm.h"
#include "work_item.h"

namespace lifter::LIFTER_CAPABILITY {

// e^x for x <= 0, zero where that is below 1e-38; a NaN stays one.
LIFTER_INLINE vfloat weight_of(vfloat x) { return x < -kSmallExponent ? vfloat{} : exp_small(x); }

// The weight of a masked score in a row whose scores have this logarithm of their sum, which no key may have.
LIFTER_INLINE vfloat weight_of(vfloat score, float lse) {
  return score == -INFINITY ? vfloat{} : weight_of(score - lse);
}

// The scores of query `i`, masked by rules.mask(row, i), to what rules.weigh(i, j, weight) makes of their weights, in
// place, as floats or as pairs in the front half. They still lack the factor 1 / `total`; `total` is zero if all is
// masked, and NaN if any score is. Returns the largest score, or zero.
template <bool kPairs, class Rules>
LIFTER_INLINE float softmax(const Rules& rules, int64_t i, int64_t width, float* row, float* total) {
  rules.mask(row, i);
  vfloat most = load(row);
  for (int64_t j = kLanes; j < width; j += kLanes) most = vmax(load(row + j), most);
  float top = max_lanes(most);
  if (top == -INFINITY) top = 0;  // all is masked, or NaN, which a maximum may lose and the sum keeps
  vfloat sum = {};
  const auto weigh = [&](int64_t j) LIFTER_LAMBDA {
    const vfloat weight = weight_of(load(row + j) - top);
    sum += weight;
    return rules.weigh(i, j, weight);
  };
  int64_t j = 0;
  if (kPairs) {
    for (; j + 2 * kLanes <= width; j += 2 * kLanes) {
      const vfloat low = weigh(j);
      store(row + j / 2, to_pairs(low, weigh(j + kLanes)));
    }
    if (j < width) store(row + j / 2, to_pairs(weigh(j), vfloat{}));
  } else {
    for (; j < width; j += kLanes) store(row + j, weigh(j));
  }
  *total = sum_lanes(sum);
  return top;
}

// `tops`, the largest scores of rows, to the logarithms of their sums; minus infinity where all is masked. Both have
// whole vectors.
LIFTER_INLINE void log_sums(const float* totals, int64_t count, float* tops) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const vfloat total = load(totals + i);
    const vfloat log = total == total ? log_positive(total) : total;
    store(tops + i, total == 0 ? splat(-INFINITY) : load(tops + i) + log);
  }
}

// Stores `count` rows of `sums`, `ld` apart, times 1 / total, as the tokens from `first` on, and the logarithms of the sums of
// their weights, `tops` being their largest scores, a whole number of vectors.
template <class T>
static void store_attended(const WorkItem& p, const Strides& strides, int64_t first, int64_t count, int64_t channels,
                           const float* sums, int64_t ld, const float* totals, float* tops, T* out, float* lse) {
  log_sums(totals, count, tops);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = p.offset(strides, first + i);
    const float factor = totals[i] == 0 ? 0 : 1 / totals[i];
    for (int64_t c = 0; c < channels; c += kLanes)
      store_some(out + at + c, load(sums + i * ld + c) * factor, channels - c);
    lse[at / channels] = tops[i];
  }
}

}  // namespace lifter::LIFTER_CAPABILITY
