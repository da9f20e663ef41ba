// A joint's most similar frames: the products of all pairs of frames, then two walks over their rows. The first finds the
// similarity that is enough for a frame to be selected; the second compares with that of either frame of a pair, so that
// the symmetric bits have one owner each.
#include "topk_temporal_mask.h"

#include <math.h>

#include "../parallel.h"
#include "gram.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kBits = 32;       // of a word
constexpr int64_t kRoom = 1 << 18;  // floats of the joints that are worked on at a time: they stay in the caches
constexpr int kGuesses = 8;         // before the search is by halves

// Integers in the order of floats, and back.
int64_t key(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits ^ (bits >> 31 & INT32_MAX);
}

float value(int64_t key) {
  const int32_t bits = static_cast<int32_t>(key) ^ (static_cast<int32_t>(key) >> 31 & INT32_MAX);
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

struct Joint {
  int64_t number;
  float* x;               // (units, frames)
  float* pairs;           // (frames, frames): products; of a frame with itself -inf
  float *enough, *until;  // a frame selects what is above `enough`, and what is equal up to the frame `until`
};

// Steps of a joint, of which each needs all of the one before; each is split into tasks.
template <class T, class Unit>
class Topk {
 public:
  Topk(const TopkTemporalMask& s, uint32_t* mask)
      : s_(s), mask_(mask), words_((s.frames + kBits - 1) / kBits), gram_(s.frames, s.channels),
        room_(gram_.spread * (gram_.units + s.frames) + 2 * gram_.width),
        joints_(smaller(s.batch * s.joints, kRoom / room_ + 1)), scratch_(joints_ * room_),
        joint_rooms_(scratch_.take(joints_ * room_)) {
    for (int i = 0; i < kLanes; ++i) lane_[i] = i;
  }

  void operator()() {
    const int64_t all = s_.batch * s_.joints;
    for (int64_t first = 0; first < all; first += joints_) {
      const int64_t count = smaller(joints_, all - first);
      const auto each = [&](int64_t tasks, const auto& step) {
        parallel_for(count * tasks, [&](int64_t i) { step(joint(first, i / tasks), i % tasks); });
      };
      each(gram_.pack_tasks, [&](const Joint& c, int64_t i) { pack(c, i); });
      each(gram_.multiply_tasks, [&](const Joint& c, int64_t i) { gram_.multiply(c.x, i, c.pairs); });
      each(s_.frames, [&](const Joint& c, int64_t i) { search(c, i); });
      each(s_.frames, [&](const Joint& c, int64_t i) { select(c, i); });
    }
  }

 private:
  Joint joint(int64_t first, int64_t i) const {
    float* room = joint_rooms_ + i * room_;
    float* pairs = room + gram_.spread * gram_.units;
    float* enough = pairs + gram_.spread * s_.frames;
    return {first + i, room, pairs, enough, enough + gram_.width};
  }

  void pack(const Joint& c, int64_t task) const {
    const int64_t batch = c.number / s_.joints, joint = c.number % s_.joints;
    const T* x = static_cast<const T*>(s_.x) + batch * s_.x_batch + joint * s_.x_joint;
    gram_.pack(x, s_.x_frame, task, false, c.x);
  }

  // What is enough for frame `i`: between bounds that close in on it, until they are neighbours or what is between them
  // does not matter. First guesses are by the number of frames on either side, as if these were spread evenly.
  void search(const Joint& c, int64_t i) const {
    float* row = c.pairs + i * gram_.spread;
    const float other = row[i ? 0 : 1];
    const auto leave_out = [&](float x) {
      row[i] = x;
      for (int64_t j = s_.frames; j < gram_.width; ++j) row[j] = x;
    };
    leave_out(other);
    vfloat least = splat(other), most = least;
    for (int64_t j = 0; j < gram_.width; j += kLanes)
      least = vmin(load(row + j), least), most = vmax(load(row + j), most);
    leave_out(-INFINITY);

    int64_t low = key(-max_lanes(-least)), high = key(max_lanes(most)) + 1;  // the one is little enough, the other too much
    int64_t from_low = s_.frames - 1, from_high = 0;                         // how many frames are at least as similar
    for (int step = 0; from_low != s_.k && high - low > 1; ++step) {
      int64_t middle = (low + high) >> 1;
      if (step < kGuesses) {
        const float a = value(low), b = value(high);
        const float guess = a + (b - a) * ((from_low - s_.k - 0.5f) / (from_low - from_high));
        if (guess > a && guess < b) middle = key(guess);
      }
      const int64_t from = count(row, value(middle));
      (from >= s_.k ? low : high) = middle;
      (from >= s_.k ? from_low : from_high) = from;
    }
    c.enough[i] = value(low);
    c.until[i] = from_low == s_.k ? s_.frames : place(row, value(low), s_.k - from_high);
  }

  int64_t count(const float* row, float bound) const {
    vint found = {};
    for (int64_t j = 0; j < gram_.width; j += kLanes) found -= load(row + j) >= bound;
    return sum_lanes(__builtin_convertvector(found, vfloat));
  }

  // Where the n-th frame is that is just as similar.
  int64_t place(const float* row, float similarity, int64_t n) const {
    int64_t j = 0;
    for (; j < s_.frames; ++j)
      if (row[j] == similarity && --n == 0) break;
    return j;
  }

  // The bits of frame `i`.
  void select(const Joint& c, int64_t i) const {
    const float* row = c.pairs + i * gram_.spread;
    uint32_t* words = mask_ + (c.number * s_.frames + i) * words_;
    const float enough = c.enough[i], until = c.until[i];
    for (int64_t j = 0; j < gram_.width; j += kLanes) {
      const vfloat similarity = load(row + j), others = load(c.enough + j);
      const vint chosen = (similarity > vmin(others, splat(enough))) |
                          ((similarity == enough) & (lane_ + static_cast<float>(j) <= until)) |
                          ((similarity == others) & (load(c.until + j) >= static_cast<float>(i)));
      const uint32_t found = lane_bits(chosen) << j % kBits;
      words[j / kBits] = j % kBits ? words[j / kBits] | found : found;
    }
    words[i / kBits] |= 1u << i % kBits;
    words[words_ - 1] &= ~0u >> (words_ * kBits - s_.frames);
  }

  const TopkTemporalMask& s_;
  uint32_t* mask_;
  const int64_t words_;
  const Gram<T, Unit> gram_;
  const int64_t room_, joints_;
  Scratch scratch_;
  float* joint_rooms_;
  vfloat lane_;  // its number; frames are numbered by floats, which are exact
};

void select_all(const TopkTemporalMask& s, uint32_t* mask) {
  const int64_t words = (s.frames + kBits - 1) / kBits;
  parallel_for(s.batch * s.joints * s.frames, [&](int64_t i) {
    for (int64_t j = 0; j < words; ++j) mask[i * words + j] = ~0u >> (j + 1 < words ? 0 : words * kBits - s.frames);
  });
}

}  // namespace

void topk_temporal_mask(const TopkTemporalMask& s, uint32_t* mask) {
  if (s.k >= s.frames - 1) return select_all(s, mask);
  if (s.pairs) return Topk<bfloat16, Pair>(s, mask)();
  if (s.bfloat16) return Topk<bfloat16, float>(s, mask)();
  Topk<float, float>(s, mask)();
}

}  // namespace lifter::LIFTER_CAPABILITY
