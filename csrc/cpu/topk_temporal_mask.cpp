// A joint's most similar frames: the products of all pairs of frames, then two walks over their rows. The first finds the
// similarity that is enough for a frame to be selected; the second compares with that of either frame of a pair, so that
// the symmetric bits have one owner each. All threads share the products of a few joints, of a long clip those of one: of
// 4131 frames 68 MB.
#include "topk_temporal_mask.h"

#include <math.h>

#include "../parallel.h"
#include "arena.h"
#include "layout.h"
#include "pairwise_products.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kCachedFloats = 1 << 18;  // floats of the joints that are worked on at a time: they stay in the caches

// Floats to integers of the same order, and back.
LIFTER_INLINE vint ordered(vint bits) { return bits ^ (bits >> 31 & INT32_MAX); }
LIFTER_INLINE vint key(vfloat x) { return ordered((vint)x); }
LIFTER_INLINE vfloat value(vint key) { return (vfloat)ordered(key); }

struct Joint {
  int64_t number;
  float* x;               // (units, frames)
  float* pairs;           // (frames, frames): products
  float *enough, *until;  // a frame selects what is above `enough`, and what is equal up to the frame `until`
};

// Steps of a joint, of which each needs all of the one before; each is split into tasks.
template <class T, class Unit>
class Topk {
 public:
  Topk(const TopkTemporalMask& s, uint32_t* mask)
      : s_(s), mask_(mask), words_((s.frames + kWordBits - 1) / kWordBits), pairwise_(s.frames, s.channels),
        joint_size_(Arena::measure([this](Arena& arena) { joint(0, arena); })),
        joints_(smaller(s.batch * s.joints, kCachedFloats / joint_size_ + 1)),
        arena_([this](Arena& arena) { joints_memory_ = arena.take(joints_ * joint_size_); }) {
    for (int i = 0; i < kLanes; ++i) lane_[i] = i;
  }

  void operator()() {
    const int64_t all = s_.batch * s_.joints;
    for (int64_t first = 0; first < all; first += joints_) {
      const int64_t count = smaller(joints_, all - first);
      const auto each = [&](int64_t tasks, const auto& step) {
        parallel_ranges(count * tasks, [&](int64_t begin, int64_t end) {
          float* columns;
          const Arena arena([&](Arena& arena) { columns = arena.take(s_.frames * kLanes); });
          for (int64_t i = begin; i < end; ++i) {
            Arena part(joints_memory_ + i / tasks * joint_size_, joint_size_);
            step(joint(first + i / tasks, part), i % tasks, columns);
          }
        });
      };
      each(pairwise_.pack_tasks, [&](const Joint& c, int64_t i, float*) { pack(c, i); });
      each(pairwise_.multiply_tasks, [&](const Joint& c, int64_t i, float*) { pairwise_.multiply(c.x, i, c.pairs); });
      each(pairwise_.width / kLanes, [&](const Joint& c, int64_t i, float* columns) { search(c, i, columns); });
      each(s_.frames, [&](const Joint& c, int64_t i, float*) { select(c, i); });
    }
  }

 private:
  Joint joint(int64_t number, Arena& arena) const {
    return {number, arena.take(pairwise_.ld * pairwise_.units), arena.take(pairwise_.ld * s_.frames),
            arena.take(pairwise_.width), arena.take(pairwise_.width)};
  }

  void pack(const Joint& c, int64_t task) const {
    const int64_t batch = c.number / s_.joints, joint = c.number % s_.joints;
    const T* x = static_cast<const T*>(s_.x) + batch * s_.x_batch + joint * s_.x_joint;
    pairwise_.pack(x, s_.x_frame, task, false, c.x);
  }

  // Finds the least similarity that kLanes frames choose, one frame to a lane. Bounds are bisected until they part the frames
  // as wanted, or are neighbours. They are integers, so that this takes at most 32 steps.
  void search(const Joint& c, int64_t task, float* columns) const {
    const int64_t first = task * kLanes, rows = smaller(kLanes, s_.frames - first);
    transpose_rows(c.pairs + first * pairwise_.ld, pairwise_.ld, rows, s_.frames, columns, kLanes);
    for (int64_t i = 0; i < rows; ++i) columns[(first + i) * kLanes + i] = -INFINITY;  // no frame selects itself
    vfloat least = splat(INFINITY), most = -least;
    for (int64_t j = 0; j < s_.frames; ++j) {
      const vfloat similarity = load(columns + j * kLanes);
      least = similarity > -INFINITY ? vmin(similarity, least) : least, most = vmax(similarity, most);
    }

    // How many frames are at least as similar as `low`, k or more, and as `high`, fewer.
    const vint k = vint{} + static_cast<int32_t>(s_.k);
    vint from_low = vint{} + static_cast<int32_t>(s_.frames - 1), from_high = {};
    vint low = key(vmin(least, most)), high = key(most) + 1;
    for (int step = 0; step < 32; ++step) {
      const vint open = (from_low != k) & (low + 1 < high);
      if (!any(open)) break;
      const vint middle = (low & high) + ((low ^ high) >> 1);
      const vfloat bound = value(middle);
      vint from = {};
      for (int64_t j = 0; j < s_.frames; ++j) from -= load(columns + j * kLanes) >= bound;
      const vint fewer = open & (from < k), others = open & ~fewer;
      low = others ? middle : low, from_low = others ? from : from_low;
      high = fewer ? middle : high, from_high = fewer ? from : from_high;
    }

    // Among frames that are just as similar, the first are chosen.
    const vfloat enough = value(low);
    vfloat until = splat(s_.frames);
    if (any(from_low != k)) {
      vint rest = k - from_high;
      for (int64_t j = 0; j < s_.frames; ++j) {
        const vint equal = load(columns + j * kLanes) == enough;
        rest += equal;
        until = (equal & (rest == 0) & (from_low != k)) ? splat(j) : until;
      }
    }
    store(c.enough + first, enough), store(c.until + first, until);
  }

  // The bits of frame `i`.
  void select(const Joint& c, int64_t i) const {
    const float* row = c.pairs + i * pairwise_.ld;
    uint32_t* words = mask_ + (c.number * s_.frames + i) * words_;
    const float enough = c.enough[i], until = c.until[i];
    for (int64_t j = 0; j < pairwise_.width; j += kLanes) {
      const vfloat similarity = load(row + j), others = load(c.enough + j);
      const vint chosen = (similarity > vmin(others, splat(enough))) |
                          ((similarity == enough) & (lane_ + static_cast<float>(j) <= until)) |
                          ((similarity == others) & (load(c.until + j) >= static_cast<float>(i)));
      const uint32_t found = lane_bits(chosen) << j % kWordBits;
      words[j / kWordBits] = j % kWordBits ? words[j / kWordBits] | found : found;
    }
    words[i / kWordBits] |= 1u << i % kWordBits;
    words[words_ - 1] &= ~0u >> (words_ * kWordBits - s_.frames);
  }

  const TopkTemporalMask& s_;
  uint32_t* mask_;
  const int64_t words_;
  const PairwiseProducts<T, Unit> pairwise_;
  const int64_t joint_size_, joints_;  // floats of a joint; how many joints are worked on at a time
  float* joints_memory_;
  const Arena arena_;
  vfloat lane_;  // its number; frames are numbered by floats, which are exact
};

void select_all(const TopkTemporalMask& s, uint32_t* mask) {
  const int64_t words = (s.frames + kWordBits - 1) / kWordBits;
  parallel_for(s.batch * s.joints * s.frames, [&](int64_t i) {
    for (int64_t j = 0; j < words; ++j) mask[i * words + j] = ~0u >> (j + 1 < words ? 0 : words * kWordBits - s.frames);
  });
}

}  // namespace

void topk_temporal_mask(const TopkTemporalMask& s, uint32_t* mask) {
  if (s.k >= s.frames - 1) return select_all(s, mask);
  with_precision(s.precision, [&](auto t, auto unit) { Topk<decltype(t), decltype(unit)>(s, mask)(); });
}

}  // namespace lifter::LIFTER_CAPABILITY
