// Density peaks of a clip's frames: the products of all pairs of frames, then two walks over the rows of distances.
#include "density_peak_prune.h"

#include <math.h>

#include "../parallel.h"
#include "arena.h"
#include "pairwise_products.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kCachedFloats = 1 << 18;  // floats of the clips that are worked on at a time: they stay in the caches

struct Clip {
  int64_t number;
  float* x;      // (units, frames)
  float* pairs;  // (frames, frames): products, then squared distances, infinite where hidden
  // One number for every frame: its product with itself; the sum of the distances to its nearest frames; how many of these
  // are hidden; its largest distance; whether any is hidden; the sum of its mask; its density.
  float *squares, *sums, *missing, *largest, *hidden, *support, *density;
  float* farthest;  // one number: what the densest frame gets
};

// Steps of a clip, of which each needs all of the one before; each is split into tasks.
template <class T, class Unit>
class Prune {
 public:
  Prune(const DensityPeakPrune& s, int64_t* indices, float* scores)
      : s_(s), indices_(indices), scores_(scores), pairwise_(s.frames, s.channels),
        clip_size_(Arena::measure([this](Arena& arena) { clip(0, arena); })),
        clips_(smaller(s.batch, kCachedFloats / clip_size_ + 1)),
        arena_([this](Arena& arena) { clips_memory_ = arena.take(clips_ * clip_size_); }) {
    for (int i = 0; i < kLanes; ++i) lane_[i] = i;
  }

  void operator()() {
    for (int64_t first = 0; first < s_.batch; first += clips_) {
      const int64_t count = smaller(clips_, s_.batch - first);
      const auto each = [&](int64_t tasks, const auto& step) {
        parallel_ranges(count * tasks, [&](int64_t begin, int64_t end) {
          float* lists;
          const Arena arena([&](Arena& arena) { lists = arena.take(pairwise_.width + kLanes); });
          for (int64_t i = begin; i < end; ++i) {
            Arena part(clips_memory_ + i / tasks * clip_size_, clip_size_);
            step(clip(first + i / tasks, part), i % tasks, lists);
          }
        });
      };
      each(pairwise_.pack_tasks, [&](const Clip& c, int64_t i, float*) { pack(c, i); });
      each(pairwise_.multiply_tasks, [&](const Clip& c, int64_t i, float*) { multiply(c, i); });
      each(s_.frames, [&](const Clip& c, int64_t i, float* lists) { measure(c, i, lists); });
      each(1, [&](const Clip& c, int64_t, float*) { weigh(c); });
      each(s_.frames, [&](const Clip& c, int64_t i, float*) { score(c, i); });
      each(1, [&](const Clip& c, int64_t, float*) { select(c); });
    }
  }

 private:
  Clip clip(int64_t number, Arena& arena) const {
    const auto row = [&] { return arena.take(pairwise_.width); };
    float *x = arena.take(pairwise_.ld * pairwise_.units), *pairs = arena.take(pairwise_.ld * s_.frames);
    return {number, x, pairs, row(), row(), row(), row(), row(), row(), row(), arena.take(1)};
  }

  // From their mean: frames that are much alike would else lose their distance in the rounding of the products.
  void pack(const Clip& c, int64_t task) {
    pairwise_.pack(static_cast<const T*>(s_.x) + c.number * s_.x_batch, s_.x_frame, task, true, c.x);
  }

  void multiply(const Clip& c, int64_t task) {
    pairwise_.multiply(c.x, task, c.pairs);
    const int64_t first = pairwise_.first_row(task), next = first + pairwise_.kRows;
    for (int64_t i = first; i < smaller(next, s_.frames); ++i) c.squares[i] = c.pairs[i * pairwise_.ld + i];
    if (next >= s_.frames)
      for (int64_t i = s_.frames; i < pairwise_.width; ++i) c.squares[i] = 0;
  }

  // Squared distances of frame `i`, their largest, and the sum of its nearest.
  void measure(const Clip& c, int64_t i, float* lists) {
    float* row = c.pairs + i * pairwise_.ld;
    vfloat most = {}, hidden = {}, support = {};
    const float* mask = s_.mask ? s_.mask + c.number * s_.mask_batch + i * s_.mask_frame : nullptr;
    const bool* valid = s_.valid ? s_.valid + c.number * s_.frames : nullptr;
    const int64_t depth = smaller(s_.nearest, pairwise_.width / kLanes);
    for (int64_t n = 2; n < depth; ++n) store(lists + n * kLanes, splat(INFINITY));
    vfloat first = splat(INFINITY), second = first;  // the front of the lists
    for (int64_t j = 0; j < pairwise_.width; j += kLanes) {
      const vint inside = lane_ < vint{} + static_cast<int32_t>(s_.frames - j);
      vfloat square = vmax(load(c.squares + j) + c.squares[i] - load(row + j) * 2.0f, vfloat{});
      most = inside ? vmax(square, most) : most;
      vint seen = inside;
      if (mask) {
        const vfloat values = load_some(mask + j, s_.frames - j);
        support += values;
        seen &= values != 0;
      }
      if (valid)
        for (int64_t lane = 0; lane < smaller(kLanes, s_.frames - j); ++lane) seen[lane] &= -valid[j + lane];
      hidden += inside & ~seen ? splat(1.0f) : vfloat{};
      square = seen ? square : splat(INFINITY);
      store(row + j, square);
      // Every lane has a list of its smallest, in order; what is not among them moves on.
      const vfloat moved = vmax(square, first);
      first = vmin(square, first), square = vmax(moved, second), second = vmin(moved, second);
      for (int64_t n = 2; n < depth; ++n) {
        const vfloat other = load(lists + n * kLanes);
        store(lists + n * kLanes, vmin(square, other));
        square = vmax(square, other);
      }
    }
    store(lists, first), store(lists + kLanes, second);
    c.largest[i] = max_lanes(most), c.hidden[i] = max_lanes(hidden), c.support[i] = sum_lanes(support);

    int64_t taken[kLanes] = {}, found = 0;
    float sum = 0;
    for (; found < s_.nearest; ++found) {
      int best = 0;
      float least = INFINITY;
      for (int lane = 0; lane < kLanes; ++lane) {
        const float head = taken[lane] < depth ? lists[taken[lane] * kLanes + lane] : INFINITY;
        if (head < least) least = head, best = lane;
      }
      if (least == INFINITY) break;
      sum += least, ++taken[best];
    }
    c.sums[i] = sum, c.missing[i] = s_.nearest - found;
  }

  // The density of every frame; NaN if any frame has one, which the distances of all are measured from.
  void weigh(const Clip& c) {
    float largest = 0, hidden = 0, support = 0, nan = 0;
    for (int64_t i = 0; i < s_.frames; ++i) {
      nan = c.squares[i] == c.squares[i] ? nan : c.squares[i];
      largest = c.largest[i] > largest ? c.largest[i] : largest;
      hidden += c.hidden[i], support += 1 + c.support[i];
    }
    const float most = sqrtf(largest / s_.channels), away = most + 1;
    *c.farthest = hidden > 0 ? away : most;
    for (int64_t i = 0; i < s_.frames; ++i) {
      const int64_t at = c.number * s_.frames + i;
      float density = expf(-(c.sums[i] / s_.channels + c.missing[i] * away * away) / s_.nearest);
      if (s_.noise) density += 1e-6f * s_.noise[at];
      if (s_.mask) density *= (1 + c.support[i]) / support;  // the softmax of the logarithms
      c.density[i] = nan + (s_.valid && !s_.valid[at] ? 0 : density);
    }
    for (int64_t i = s_.frames; i < pairwise_.width; ++i) c.density[i] = -INFINITY;
  }

  // Frame `i`: its density times its distance to the nearest denser frame, of equally dense ones those before it.
  void score(const Clip& c, int64_t i) {
    const float* row = c.pairs + i * pairwise_.ld;
    const float density = c.density[i];
    vfloat least = splat(INFINITY);
    for (int64_t j = 0; j < pairwise_.width; j += kLanes) {
      const vfloat other = load(c.density + j);
      const vint denser = (other > density) | ((other == density) & (lane_ < vint{} + static_cast<int32_t>(i - j)));
      least = denser ? vmin(load(row + j), least) : least;
    }
    const float square = -max_lanes(-least);
    const float distance = square == INFINITY ? *c.farthest : sqrtf(square / s_.channels);
    scores_[c.number * s_.frames + i] = density * distance;
  }

  // The frames of the largest scores, in order of time; of equal scores the first. As integers of the same order, NaN too:
  // the bits of the smallest one kept are found from the top.
  void select(const Clip& c) {
    const float* scores = scores_ + c.number * s_.frames;
    const auto key = [&](int64_t i) {
      uint32_t bits;
      memcpy(&bits, scores + i, sizeof bits);
      return bits >> 31 ? ~bits : bits | 0x80000000u;
    };
    uint32_t least = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
      int64_t count = 0;
      for (int64_t i = 0; i < s_.frames; ++i) count += key(i) >= (least | bit);
      if (count >= s_.kept) least |= bit;
    }
    int64_t equal = s_.kept;
    for (int64_t i = 0; i < s_.frames; ++i) equal -= key(i) > least;
    int64_t* out = indices_ + c.number * s_.kept;
    for (int64_t i = 0; i < s_.frames; ++i)
      if (key(i) > least || (key(i) == least && equal-- > 0)) *out++ = i;
  }

  const DensityPeakPrune& s_;
  int64_t* indices_;
  float* scores_;
  const PairwiseProducts<T, Unit> pairwise_;
  const int64_t clip_size_, clips_;  // floats of a clip; how many clips are worked on at a time
  float* clips_memory_;
  const Arena arena_;
  vint lane_;
};

}  // namespace

void density_peak_prune(const DensityPeakPrune& s, int64_t* indices, float* scores) {
  with_precision(s.precision, [&](auto t, auto unit) {
    Prune<decltype(t), decltype(unit)>(s, indices, scores)();
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
