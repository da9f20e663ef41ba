// Graph convolution along the frames of every joint. Forward: the products of all pairs of frames of a window; of every frame
// the k most similar ones; and their sums. Backward: a joint's frames give their gradients to those that they chose.
#include "temporal_topk_graph_conv.h"

#include <float.h>
#include <math.h>

#include "arena.h"
#include "epilogue.h"
#include "pairwise_products.h"
#include "work_item.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kCachedFloats = 1 << 18;  // floats of the windows that are worked on at a time: they stay in the caches

// The frames of its window that a frame chose, and their weights.
class Edges {
 public:
  explicit Edges(int64_t frames)
      : arena_([&](Arena& arena) { weights_ = arena.take(frames), frames_ = arena.take<int32_t>(frames); }) {}

  // The bits of a row of the graph, that of frame `i`; `degrees` are its window's.
  void read(const uint32_t* row, int64_t words, const float* degrees, int64_t i) {
    count_ = 0;
    for (int64_t w = 0; w < words; ++w)
      for (uint32_t bits = row[w]; bits; bits &= bits - 1) {
        const int64_t frame = w * kWordBits + __builtin_ctz(bits);
        frames_[count_] = static_cast<int32_t>(frame);
        weights_[count_++] = 1 / sqrtf(degrees[i] * degrees[frame]);
      }
  }

  int64_t count() const { return count_; }
  int64_t frame(int64_t i) const { return frames_[i]; }
  float weight(int64_t i) const { return weights_[i]; }

  // The sum of vectors, of the frames that lie `stride` apart from the window's first on.
  template <class T>
  LIFTER_MEMBER vfloat sum(const T* values, int64_t stride, int64_t count) const {
    vfloat y = {};
    for (int64_t i = 0; i < count_; ++i) y += load_some(values + frames_[i] * stride, count) * weights_[i];
    return y;
  }

 private:
  float* weights_;
  int32_t* frames_;
  int64_t count_ = 0;
  const Arena arena_;
};

// Which size has the products of this one: the largest that is made of its windows.
int64_t owner(const TemporalTopkGraphConv& s, int64_t size) {
  int64_t best = size;
  for (int64_t i = 0; i < s.sizes; ++i) {
    const bool made = s.windows[i] % s.windows[size] == 0 || s.windows[i] == s.frames;
    if (made && (s.windows[i] > s.windows[best] || (s.windows[i] == s.windows[best] && i < best))) best = i;
  }
  return best;
}

struct Window {
  int64_t joint;   // its number, in all clips
  int64_t begin;   // its first frame
  float* x;        // (units, frames)
  float* pairs;    // (frames, frames): products
  float* inverse;  // of every frame what its products are multiplied by: the inverse of its norm, or 1
  float* degrees;  // (sizes, frames): how many each chose
};

// The windows of one size that have `length` frames, and all shorter ones that they are made of: those have their products
// among theirs. Steps of a window, of which each needs all of the one before; each is split into tasks.
template <class T, class Unit>
class Forward {
 public:
  Forward(const TemporalTopkGraphConv& s, int64_t owner, int64_t begin, int64_t length, uint32_t* graph, T* out)
      : s_(s), owner_(owner), begin_(begin), length_(length), graph_(graph), out_(out), pairwise_(length, s.channels),
        window_size_(Arena::measure([this](Arena& arena) { window(0, 0, arena); })) {}

  void operator()(int64_t windows) {
    const int64_t all = s_.batch * s_.joints * windows, some = smaller(all, kCachedFloats / window_size_ + 1);
    float* windows_memory;
    const Arena arena([&](Arena& arena) { windows_memory = arena.take(some * window_size_); });
    for (int64_t first = 0; first < all; first += some) {
      const int64_t count = smaller(some, all - first);
      const auto each = [&](int64_t tasks, const auto& step) {
        parallel_ranges(count * tasks, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t n = first + i / tasks;
            Arena part(windows_memory + i / tasks * window_size_, window_size_);
            step(window(n / windows, n % windows, part), i % tasks);
          }
        });
      };
      each(pairwise_.pack_tasks, [&](const Window& c, int64_t i) { pack(c, i); });
      each(pairwise_.multiply_tasks, [&](const Window& c, int64_t i) { multiply(c, i); });
      for (int64_t size = 0; size < s_.sizes; ++size) {
        if (owner(s_, size) != owner_) continue;
        const int64_t frames = smaller(s_.windows[size], length_), blocks = (frames + kLanes - 1) / kLanes;
        each((length_ + frames - 1) / frames * blocks, [&](const Window& c, int64_t i) {
          const int64_t begin = i / blocks * frames, first = begin + i % blocks * kLanes;
          if (first < length_) choose(c, size, begin, smaller(frames, length_ - begin), first);
        });
        each((length_ + kLanes - 1) / kLanes, [&](const Window& c, int64_t i) {
          Edges edges(length_);
          for (int64_t t = i * kLanes; t < smaller((i + 1) * kLanes, length_); ++t) sum(c, size, t, edges);
        });
      }
    }
  }

 private:
  // A shorter window may begin anywhere: the last vector of its columns can end a vector behind the products.
  Window window(int64_t joint, int64_t i, Arena& arena) const {
    return {joint,
            begin_ + i * length_,
            arena.take(pairwise_.ld * pairwise_.units),
            arena.take(pairwise_.ld * length_ + kLanes),
            arena.take(pairwise_.width),
            arena.take(s_.sizes * pairwise_.width)};
  }

  void pack(const Window& c, int64_t task) const {
    const int64_t batch = c.joint / s_.joints, joint = c.joint % s_.joints;
    const T* x = static_cast<const T*>(s_.x) + batch * s_.x_batch + joint * s_.x_joint + c.begin * s_.x_frame;
    pairwise_.pack(x, s_.x_frame, task, false, c.x);
  }

  void multiply(const Window& c, int64_t task) const {
    pairwise_.multiply(c.x, task, c.pairs);
    const int64_t first = pairwise_.first_row(task);
    for (int64_t i = first; i < smaller(first + pairwise_.kRows, length_); ++i) {
      const float norm = sqrtf(c.pairs[i * pairwise_.ld + i]);
      c.inverse[i] = s_.cosine ? 1 / (norm > 1e-12f ? norm : 1e-12f) : 1;
    }
  }

  // Up to the length of the frame that compares. Never NaN, so that there are always k.
  LIFTER_INLINE vfloat similarity(vfloat product, vfloat inverse) { return vmax(product * inverse, splat(-FLT_MAX)); }

  // Chooses for kLanes frames of a window, from `first` on. The products are symmetric, so that a column belongs to a frame:
  // the least similarity that is chosen is found for all of them at once. Columns behind the last frame give no bits.
  void choose(const Window& c, int64_t size, int64_t begin, int64_t frames, int64_t first) const {
    const int64_t k = smaller(s_.k, frames);
    float* list;  // the most similar, in order
    const Arena arena([&](Arena& arena) { list = arena.take((k + 1) * kLanes); });
    for (int64_t n = 2; n < k; ++n) store(list + n * kLanes, splat(-INFINITY));
    vfloat best = splat(-INFINITY), second = best;  // its front
    for (int64_t j = begin; j < begin + frames; ++j) {
      const vfloat other = similarity(load(c.pairs + j * pairwise_.ld + first), splat(c.inverse[j]));
      const vfloat moved = vmin(other, best);
      best = vmax(other, best);
      vfloat third = vmin(moved, second);
      second = vmax(moved, second);
      for (int64_t n = 2; n < k; ++n) {
        const vfloat next = load(list + n * kLanes);
        store(list + n * kLanes, vmax(third, next));
        third = vmin(third, next);
      }
    }
    store(list, best), store(list + kLanes, second);

    const int64_t item = c.joint * s_.sizes + size, end = begin + frames;
    for (int64_t i = first; i < smaller(first + kLanes, end); ++i) {
      uint32_t* words = graph_ + (item * s_.frames + c.begin + i) * s_.words;
      const float* row = c.pairs + i * pairwise_.ld;
      const float enough = list[(k - 1) * kLanes + i - first];
      int64_t degree = 0;
      memset(words, 0, s_.words * sizeof *words);
      for (int64_t j = begin / kWordBits * kWordBits; j < end; j += kWordBits) {
        uint32_t word = 0;
        for (int64_t n = 0; n < smaller(kWordBits, end - j); n += kLanes)
          word |= lane_bits(similarity(load(row + j + n), load(c.inverse + j + n)) >= enough) << n;
        if (j < begin) word &= ~0u << (begin - j);
        if (end - j < kWordBits) word &= (1u << (end - j)) - 1;
        words[j / kWordBits] = word, degree += __builtin_popcount(word);
      }
      for (int64_t j = end; !s_.all_ties && degree > k;) {  // the last of those that are just as similar are too many
        --j;
        const bool equal = similarity(splat(row[j]), splat(c.inverse[j]))[0] == enough;
        if (equal) words[j / kWordBits] &= ~(1u << j % kWordBits), --degree;
      }
      c.degrees[size * pairwise_.width + i] = degree;
    }
  }

  // The result of a frame of a window.
  void sum(const Window& c, int64_t size, int64_t i, Edges& edges) const {
    const WorkItem p(s_.joints, s_.sizes, c.joint * s_.sizes + size);
    const int64_t t = c.begin + i;
    edges.read(graph_ + (p.number * s_.frames + t) * s_.words, s_.words, c.degrees + size * pairwise_.width, i);
    const T* values = static_cast<const T*>(s_.values) + p.offset(s_.values_strides, c.begin);
    const T* root = s_.root ? static_cast<const T*>(s_.root) + p.offset(s_.root_strides, t) : nullptr;
    const Epilogue<T> epilogue{s_.scale ? s_.scale[t * s_.sizes + size] : 1, s_.shift ? s_.shift[t * s_.sizes + size] : 0,
                               s_.residual ? static_cast<const T*>(s_.residual) + p.offset(s_.residual_strides, t) : nullptr,
                               s_.relu};
    T* out = out_ + (((p.batch * s_.frames + t) * s_.joints + p.row) * s_.sizes + size) * s_.width;
    for (int64_t d = 0; d < s_.width; d += kLanes) {
      const int64_t count = s_.width - d;
      vfloat y = edges.sum(values + d, s_.values_strides.token, count);
      if (root) y += load_some(root + d, count);
      epilogue.finish(y, out, d, count);
    }
  }

  const TemporalTopkGraphConv& s_;
  const int64_t owner_, begin_, length_;
  uint32_t* graph_;
  T* out_;
  const PairwiseProducts<T, Unit> pairwise_;
  const int64_t window_size_;  // floats
};

template <class T, class Unit>
void forward(const TemporalTopkGraphConv& s, uint32_t* graph, void* out) {
  for (int64_t i = 0; i < s.sizes; ++i) {
    if (owner(s, i) != i) continue;
    const int64_t length = s.windows[i], whole = s.frames / length, rest = s.frames % length;
    Forward<T, Unit>(s, i, 0, length, graph, static_cast<T*>(out))(whole);
    if (rest) Forward<T, Unit>(s, i, whole * length, rest, graph, static_cast<T*>(out))(1);
  }
}

// Sums the gradients that the frames of a joint received, in windows of one size.
template <class T>
class Backward {
 public:
  Backward(const TemporalTopkGraphConv& s, const TemporalTopkGraphConvGradient& g)
      : s_(s), g_(g), width_(padded(s.width)), edges_(s.frames),
        arena_([&](Arena& arena) { sums_ = arena.take(s.frames * width_), degrees_ = arena.take(s.frames); }) {}

  void operator()(const WorkItem& p, const WorkItem&) {
    const uint32_t* graph = g_.graph + p.number * s_.frames * s_.words;
    for (int64_t t = 0; t < s_.frames; ++t) {
      degrees_[t] = 0;
      for (int64_t w = 0; w < s_.words; ++w) degrees_[t] += __builtin_popcount(graph[t * s_.words + w]);
    }
    memset(sums_, 0, s_.frames * width_ * sizeof(float));
    const int64_t size = s_.windows[owner(s_, p.head)];
    for (int64_t t = 0; t < s_.frames; ++t) {
      const int64_t begin = t - t % size;
      edges_.read(graph + t * s_.words, s_.words, degrees_ + begin, t - begin);
      frame(p, begin, t);
    }
    const int64_t step = s_.joints * s_.sizes * s_.width;
    store_rows(sums_, width_, s_.frames, s_.width, static_cast<T*>(g_.dvalues) + place(p, 0) * s_.width, step);
  }

 private:
  // Index into an array (batch, frames, joints, sizes).
  int64_t place(const WorkItem& p, int64_t t) const {
    return ((p.batch * s_.frames + t) * s_.joints + p.row) * s_.sizes + p.head;
  }

  void frame(const WorkItem& p, int64_t begin, int64_t t) {
    const int64_t at = place(p, t) * s_.width;
    const auto of = [&](void* map) { return map ? static_cast<T*>(map) + at : nullptr; };
    EpilogueGradient<T> gradient{s_.scale ? s_.scale[t * s_.sizes + p.head] : 1,
                                 static_cast<const T*>(g_.dout) + p.offset(g_.dout_strides, t),
                                 g_.out ? static_cast<const T*>(g_.out) + at : nullptr, of(g_.dresidual), of(g_.droot)};
    const T* values = g_.dscale ? static_cast<const T*>(s_.values) + p.offset(s_.values_strides, begin) : nullptr;
    const T* root = g_.dscale && s_.root ? static_cast<const T*>(s_.root) + p.offset(s_.root_strides, t) : nullptr;
    for (int64_t d = 0; d < s_.width; d += kLanes) {
      const int64_t count = s_.width - d;
      vfloat y = {};
      if (values) y = edges_.sum(values + d, s_.values_strides.token, count);
      if (root) y += load_some(root + d, count);
      const vfloat dy = gradient.back(y, d, count);
      for (int64_t i = 0; i < edges_.count(); ++i) {
        float* sum = sums_ + (begin + edges_.frame(i)) * width_ + d;
        store(sum, load(sum) + dy * edges_.weight(i));
      }
    }
    if (values) {
      const int64_t partial = ((p.batch * s_.joints + p.row) * s_.frames + t) * s_.sizes + p.head;
      g_.dscale[partial] = sum_lanes(gradient.dscale), g_.dshift[partial] = sum_lanes(gradient.dshift);
    }
  }

  const TemporalTopkGraphConv& s_;
  const TemporalTopkGraphConvGradient& g_;
  const int64_t width_;
  float *sums_, *degrees_;
  Edges edges_;
  const Arena arena_;
};

}  // namespace

void temporal_topk_graph_conv_forward(const TemporalTopkGraphConv& s, uint32_t* graph, void* out) {
  with_precision(s.precision, [&](auto t, auto unit) { forward<decltype(t), decltype(unit)>(s, graph, out); });
}

void temporal_topk_graph_conv_backward(const TemporalTopkGraphConv& s, const TemporalTopkGraphConvGradient& g) {
  with_precision(s.precision, [&](auto t, auto) { each_work_item<Backward<decltype(t)>>(s.batch, s.joints, s.sizes, s, g); });
}

}  // namespace lifter::LIFTER_CAPABILITY
