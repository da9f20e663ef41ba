// A group of windows goes through the whole network in the scratch of its task; a single window is shared by all threads.
//
// Both attentions are one product. Of a layer's tokens x (frames, dim), `left` (frames, keys) = x W_l holds the mixtures of
// the channels and the scores of the frames, `right` (keys, dim) = W_r x the scores of the channels, transposed, and the
// mixtures of the frames. Once the scores are weights and each frame's row of `left` has its shares of the two attentions,
// left right is what they make of the frames. The mean of it over the channels, from which the shares follow, is left times
// the means of the rows of right.
#include "mixsynth_encoder.h"

#include <math.h>

#include "arena.h"
#include "gemm.h"
#include "reduce.h"
#include "team.h"
#include "tile_io.h"
#include "weight_panels.h"
#include "work_item.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kGroup = 48;       // rows that a task should have at least: fewer would not repay loading the weights
constexpr float kEpsilon = 1e-5f;    // of the norms

LIFTER_INLINE int64_t row_of(int64_t n) { return leading_dimension(panel_columns(n)); }

// The packed weights, read in order.
class Reader {
 public:
  explicit Reader(const float* p) : p_(p) {}
  LIFTER_MEMBER const float* matrix(int64_t in, int64_t out) { return take(in * panel_columns(out)); }
  LIFTER_MEMBER const float* vector(int64_t n) { return take(panel_columns(n)); }
  LIFTER_MEMBER const float* rest() const { return p_; }

 private:
  LIFTER_MEMBER const float* take(int64_t count) {
    const float* p = p_;
    p_ += count;
    return p;
  }
  const float* p_;
};

// The sizes that follow from those of the op.
struct Sizes {
  explicit Sizes(const MixSynthEncoder& s)
      : keys(s.channel_keys + s.token_keys), mixes_channels(s.channel_keys < s.dim), mixes_frames(s.token_keys < s.frames),
        left_first(mixes_channels ? 0 : s.channel_keys), right_count(mixes_frames ? keys : s.channel_keys),
        few_frames(s.frames < 4 ? 1 : s.frames / 4), few_channels(s.dim < 4 ? 1 : s.dim / 4), ld_pose(row_of(s.poses)),
        ld_dim(row_of(s.dim)), ld_left(row_of(s.channel_keys + panel_columns(s.token_keys))), ld_hidden(row_of(s.hidden)) {}

  int64_t keys;  // first those of the channels, then those of the frames
  bool mixes_channels, mixes_frames;
  int64_t left_first;   // the first column of left that is a product, and
  int64_t right_count;  // how many rows of right are one: the others are the tokens themselves
  int64_t few_frames, few_channels;
  int64_t ld_pose, ld_dim, ld_left, ld_hidden;
};

struct Layer {
  Layer(const MixSynthEncoder& s, const Sizes& z, const float* weights) {
    Reader r(weights);
    left = r.matrix(s.dim, z.keys - z.left_first), left_bias = r.vector(z.keys - z.left_first);
    right = r.vector(z.right_count * s.frames), right_bias = r.vector(z.right_count);
    squeeze_frames = r.matrix(s.frames, z.few_frames), excite_frames = r.matrix(z.few_frames, s.frames);
    squeeze_channels = r.matrix(s.dim, z.few_channels), excite_channels = r.matrix(z.few_channels, s.dim);
    share1 = r.matrix(s.frames, z.few_frames), share1_bias = r.vector(z.few_frames);
    share2 = r.matrix(z.few_frames, s.frames), share2_bias = r.vector(s.frames);
    proj = r.matrix(s.dim, s.dim), proj_bias = r.vector(s.dim);
    norm1 = r.vector(s.dim), norm1_bias = r.vector(s.dim);
    fc1 = r.matrix(s.dim, s.hidden), fc1_bias = r.vector(s.hidden);
    fc2 = r.matrix(s.hidden, s.dim), fc2_bias = r.vector(s.dim);
    norm2 = r.vector(s.dim), norm2_bias = r.vector(s.dim);
    next = r.rest();
  }

  const float *left, *left_bias, *right, *right_bias, *squeeze_frames, *excite_frames, *squeeze_channels, *excite_channels,
      *share1, *share1_bias, *share2, *share2_bias, *proj, *proj_bias, *norm1, *norm1_bias, *fc1, *fc1_bias, *fc2,
      *fc2_bias, *norm2, *norm2_bias, *next;
};

// c[rows][out] = a weight, or += if `accumulate`.
static void linear(int64_t rows, int64_t in, int64_t out, const float* a, int64_t lda, const float* weight, float* c,
                   int64_t ldc, bool accumulate = false) {
  for (int64_t j = 0; j < out; j += kPanelColumns) {
    const int64_t width = smaller(kPanelColumns, panel_columns(out) - j);
    gemm(rows, width, in, a, lda, 1, weight, width, c + j, ldc, accumulate);
    weight += in * width;
  }
}

// f of every vector of rows of n floats, in place, after `bias` is added if there is any.
template <class F>
LIFTER_INLINE void apply(int64_t rows, int64_t n, float* x, int64_t ld, const float* bias, const F& f) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < n; j += kLanes) {
      const vfloat v = load(x + i * ld + j);
      store(x + i * ld + j, f(bias ? v + load(bias + j) : v));
    }
}

// Return the sum of n products, or of n elements, in lanes: the caller adds the lanes.
LIFTER_INLINE vfloat dot(const float* a, const float* b, int64_t n) {
  vfloat sum = {};
  for (int64_t j = 0; j < n; j += kLanes) sum += load_some(a + j, n - j) * load_some(b + j, n - j);
  return sum;
}

LIFTER_INLINE vfloat sum_of(const float* x, int64_t n) {
  vfloat sum = {};
  for (int64_t j = 0; j < n; j += kLanes) sum += load_some(x + j, n - j);
  return sum;
}

// Rows of n floats, with `bias` added if there is any, to their layer norm; what follows them up to whole vectors to zero,
// as `weight` and `shift` are there. The sums of kLanes rows are taken at once.
static void normalize(int64_t rows, int64_t n, float* x, int64_t ld, const float* bias, const float* weight,
                      const float* shift) {
  vint inside;  // of the last vector
  for (int i = 0; i < kLanes; ++i) inside[i] = i < (n - 1) % kLanes + 1 ? -1 : 0;
  const int64_t last = padded(n) - kLanes;
  alignas(64) float sums[kLanes * kLanes] = {}, means[kLanes], scales[kLanes];
  for (int64_t i = 0; i < rows; i += kLanes, x += kLanes * ld) {
    const int64_t count = smaller(kLanes, rows - i);
    for (int64_t r = 0; r < count; ++r) {
      float* row = x + r * ld;
      vfloat sum = {};
      for (int64_t j = 0; j <= last; j += kLanes) {
        const vfloat v = bias ? load(row + j) + load(bias + j) : load(row + j);
        if (bias) store(row + j, v);
        sum += v;  // what follows the row is zero
      }
      store(sums + r * kLanes, sum);
    }
    sum_over_lanes(sums, kLanes, means);
    store(means, load(means) / static_cast<float>(n));
    for (int64_t r = 0; r < count; ++r) {
      const float* row = x + r * ld;
      vfloat squares = {};
      for (int64_t j = 0; j <= last; j += kLanes) {
        const vfloat from = load(row + j) - means[r], d = j < last ? from : (vfloat)((vint)from & inside);
        squares += d * d;
      }
      store(sums + r * kLanes, squares);
    }
    sum_over_lanes(sums, kLanes, scales);
    for (int r = 0; r < kLanes; ++r) scales[r] = 1 / sqrtf(scales[r] / n + kEpsilon);
    for (int64_t r = 0; r < count; ++r) {
      float* row = x + r * ld;
      for (int64_t j = 0; j <= last; j += kLanes)
        store(row + j, (load(row + j) - means[r]) * scales[r] * load(weight + j) + load(shift + j));
    }
  }
}

template <class T>
class Network {
 public:
  // For `group` windows at a time, whose rows the threads of `team` share.
  Network(const MixSynthEncoder& s, T* out, int64_t group, Team& team)
      : s_(s), z_(s), out_(out), team_(team), parts_(team.size()),
        share_((group * s.frames + parts_ - 1) / parts_),
        arena_([=](Arena& arena) { lay_out(group, arena); }) {
    for (int i = 0; i < kLanes; ++i) inside_[i] = i < (s.token_keys - 1) % kLanes + 1 ? -1 : 0;
  }

  void operator()(int64_t first, int64_t count) {
    first_ = first, count_ = count, rows_ = count * s_.frames;
    Reader reader(s_.weights);
    if (s_.keyframes) {
      interpolation_ = reader.vector(s_.frames * s_.keyframes), interpolation_bias_ = reader.vector(s_.frames);
      for (int64_t w = 0; w < count; ++w)
        load_rows(input(w), s_.row_stride, s_.keyframes, s_.poses, keyframes_ + w * s_.keyframes * z_.ld_pose, z_.ld_pose, 0);
    }
    embedding_ = reader.matrix(s_.poses, s_.dim), embedding_bias_ = reader.vector(s_.dim);
    norm_ = reader.vector(s_.dim), norm_bias_ = reader.vector(s_.dim);
    fc_ = reader.matrix(s_.dim, s_.poses), fc_bias_ = reader.vector(s_.poses);
    Layer layer(s_, z_, reader.rest());

    team_.split([&](int64_t part) { embed(layer, part); });
    for (int64_t i = 0; i < s_.depth; ++i) {
      gate(s_.frames, z_.few_frames, frame_means_, layer.squeeze_frames, few_, layer.excite_frames, gates_);
      team_.split([&](int64_t part) { attend(layer, part); });
      weigh(layer);
      const Layer next(s_, z_, i + 1 < s_.depth ? layer.next : reader.rest());
      team_.split([&](int64_t part) { refine(layer, i + 1 < s_.depth ? &next : nullptr, part); });
      layer = next;
    }
  }

 private:
  void lay_out(int64_t group, Arena& arena) {
    const int64_t rows = group * s_.frames, frames = panel_columns(s_.frames), channels = panel_columns(s_.dim);
    keyframes_ = arena.take(group * s_.keyframes * z_.ld_pose), poses_ = arena.take(rows * z_.ld_pose);
    x_ = arena.take(rows * z_.ld_dim), left_ = arena.take(rows * z_.ld_left), right_ = arena.take(group * z_.keys * z_.ld_dim);
    for (float** p : {&frame_means_, &gates_, &factors_, &shares_}) *p = arena.take(group * frames);
    for (float** p : {&channel_means_, &channel_tops_, &channel_gates_}) *p = arena.take(group * channels);
    sums_ = arena.take((s_.frames + z_.keys) * kLanes);
    few_ = arena.take(group * panel_columns(z_.few_frames));
    few_channels_ = arena.take(group * panel_columns(z_.few_channels));
    key_means_ = arena.take(group * panel_columns(z_.keys));
    mixed_ = arena.take(parts_ * share_ * (z_.ld_hidden + z_.ld_dim));
  }

  // Calls f(begin, end) with what `part` has of `count` rows, if it has any.
  template <class F>
  LIFTER_MEMBER void share_of(int64_t part, int64_t count, const F& f) const {
    const int64_t begin = count * part / parts_, end = count * (part + 1) / parts_;
    if (begin < end) f(begin, end);
  }

  // Calls f(window, from, to) with the rows of each window that are among begin to end of all.
  template <class F>
  LIFTER_MEMBER void each_window(int64_t begin, int64_t end, const F& f) const {
    for (int64_t w = begin / s_.frames; w * s_.frames < end; ++w)
      f(w, begin < w * s_.frames ? 0 : begin - w * s_.frames, smaller(s_.frames, end - w * s_.frames));
  }

  const T* input(int64_t window) const { return static_cast<const T*>(s_.x) + (first_ + window) * s_.window_stride; }

  void embed(const Layer& layer, int64_t part) {
    share_of(part, rows_, [&](int64_t begin, int64_t end) {
      float* poses = poses_ + begin * z_.ld_pose;
      each_window(begin, end, [&](int64_t w, int64_t from, int64_t to) {
        float* rows = poses_ + (w * s_.frames + from) * z_.ld_pose;
        if (!s_.keyframes)
          return load_rows(input(w) + from * s_.row_stride, s_.row_stride, to - from, s_.poses, rows, z_.ld_pose, 0);
        gemm(to - from, panel_columns(s_.poses), s_.keyframes, interpolation_ + from * s_.keyframes, s_.keyframes, 1,
                keyframes_ + w * s_.keyframes * z_.ld_pose, z_.ld_pose, rows, z_.ld_pose);
        for (int64_t t = from; t < to; ++t, rows += z_.ld_pose)
          for (int64_t j = 0; j < s_.poses; j += kLanes) store(rows + j, load(rows + j) + interpolation_bias_[t]);
      });
      float* x = x_ + begin * z_.ld_dim;
      linear(end - begin, s_.poses, s_.dim, poses, z_.ld_pose, embedding_, x, z_.ld_dim);
      apply(end - begin, s_.dim, x, z_.ld_dim, embedding_bias_, [](vfloat v) { return v; });
      scores(layer, begin, end);
    });
  }

  // Rows of left, and the means of the frames' scores.
  void scores(const Layer& layer, int64_t begin, int64_t end) {
    const int64_t count = z_.keys - z_.left_first;
    float* left = left_ + begin * z_.ld_left;
    linear(end - begin, s_.dim, count, x_ + begin * z_.ld_dim, z_.ld_dim, layer.left, left + z_.left_first, z_.ld_left);
    apply(end - begin, count, left + z_.left_first, z_.ld_left, layer.left_bias, [](vfloat v) { return v; });
    if (!z_.mixes_channels)
      for (int64_t i = begin; i < end; ++i) memcpy(left_ + i * z_.ld_left, x_ + i * z_.ld_dim, s_.dim * sizeof(float));
    each_window(begin, end, [&](int64_t w, int64_t from, int64_t to) {
      for (int64_t t = from; t < to; ++t)
        frame_means_[w * panel_columns(s_.frames) + t] =
            sum_lanes(sum_of(left_ + (w * s_.frames + t) * z_.ld_left + s_.channel_keys, s_.token_keys)) / s_.token_keys;
    });
  }

  // Squeeze and excitation: the sigmoid of two layers without biases.
  void gate(int64_t n, int64_t few, const float* means, const float* squeeze, float* squeezed, const float* excite,
            float* gates) {
    linear(count_, n, few, means, panel_columns(n), squeeze, squeezed, panel_columns(few));
    apply(count_, few, squeezed, panel_columns(few), nullptr, [](vfloat v) { return vmax(vfloat{}, v); });
    linear(count_, few, n, squeezed, panel_columns(few), excite, gates, panel_columns(n));
    apply(count_, n, gates, panel_columns(n), nullptr, [](vfloat v) { return sigmoid(v); });
  }

  // The frames' scores to weights; right.
  void attend(const Layer& layer, int64_t part) {
    share_of(part, rows_, [&](int64_t begin, int64_t end) {
      each_window(begin, end, [&](int64_t w, int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t)
          factors_[w * panel_columns(s_.frames) + t] = softmax(left_ + (w * s_.frames + t) * z_.ld_left + s_.channel_keys,
                                                      s_.token_keys, gates_[w * panel_columns(s_.frames) + t]);
      });
    });
    for (int64_t w = 0; w < count_; ++w) {
      const float* x = x_ + w * s_.frames * z_.ld_dim;
      float* right = right_ + w * z_.keys * z_.ld_dim;
      share_of(part, z_.right_count, [&](int64_t begin, int64_t end) {
        gemm(end - begin, panel_columns(s_.dim), s_.frames, layer.right + begin * s_.frames, s_.frames, 1, x, z_.ld_dim,
                right + begin * z_.ld_dim, z_.ld_dim);
        for (int64_t k = begin; k < end; ++k)
          for (int64_t c = 0; c < s_.dim; c += kLanes)
            store(right + k * z_.ld_dim + c, load(right + k * z_.ld_dim + c) + layer.right_bias[k]);
      });
      if (part == 0 && !z_.mixes_frames)
        memcpy(right + s_.channel_keys * z_.ld_dim, x, s_.frames * z_.ld_dim * sizeof(float));
    }
  }

  // Scores to weights that still lack the factor that is returned.
  LIFTER_MEMBER float softmax(float* row, int64_t n, float gate) const {
    const int64_t last = padded(n) - kLanes;
    const vfloat end = inside_ ? load_some(row + last, n - last) : splat(row[0]);
    vfloat most = end, sum = {};
    for (int64_t j = 0; j < last; j += kLanes) most = vmax(load(row + j), most);
    const float top = max_lanes(most);
    for (int64_t j = 0; j < last; j += kLanes) {
      const vfloat weight = exp_negative((load(row + j) - top) * gate);
      store(row + j, weight);
      sum += weight;
    }
    const vfloat weight = inside_ ? exp_negative((end - top) * gate) : vfloat{};
    store_some(row + last, weight, n - last);
    return 1 / sum_lanes(sum + weight);
  }

  // The channels' scores to weights, and the frames' shares of the two attentions.
  void weigh(const Layer& layer) {
    const int64_t frames = panel_columns(s_.frames), dim = panel_columns(s_.dim), keys = panel_columns(z_.keys);
    for (int64_t w = 0; w < count_; ++w)
      for (int64_t c = 0; c < dim; c += kLanes) {
        const float* scores = right_ + w * z_.keys * z_.ld_dim + c;
        vfloat sum = {}, most = load(scores);
        for (int64_t k = 0; k < s_.channel_keys; ++k, scores += z_.ld_dim) {
          sum += load(scores);
          most = vmax(load(scores), most);
        }
        store(channel_means_ + w * dim + c, sum * (1.0f / s_.channel_keys));
        store(channel_tops_ + w * dim + c, most);
      }
    gate(s_.dim, z_.few_channels, channel_means_, layer.squeeze_channels, few_channels_, layer.excite_channels,
         channel_gates_);
    for (int64_t w = 0; w < count_; ++w) {
      float* right = right_ + w * z_.keys * z_.ld_dim;
      for (int64_t c = 0; c < dim; c += kLanes) {
        const vfloat top = load(channel_tops_ + w * dim + c), scale = load(channel_gates_ + w * dim + c);
        vfloat sum = {};
        float* weights = right + c;
        for (int64_t k = 0; k < s_.channel_keys; ++k, weights += z_.ld_dim) {
          const vfloat weight = exp_negative((load(weights) - top) * scale);
          store(weights, weight);
          sum += weight;
        }
        const vfloat factor = 1.0f / sum;
        weights = right + c;
        for (int64_t k = 0; k < s_.channel_keys; ++k, weights += z_.ld_dim) store(weights, load(weights) * factor);
      }
      float* means = key_means_ + w * keys;
      for (int64_t k = 0; k < z_.keys; ++k) store(sums_ + k * kLanes, sum_of(right + k * z_.ld_dim, s_.dim));
      sum_over_lanes(sums_, z_.keys, means);
      for (int64_t k = 0; k < keys; k += kLanes) store(means + k, load(means + k) * (1.0f / s_.dim));
      for (int64_t t = 0; t < s_.frames; ++t) {
        const float* left = left_ + (w * s_.frames + t) * z_.ld_left;
        const vfloat channels = dot(left, means, s_.channel_keys);
        const vfloat tokens = dot(left + s_.channel_keys, means + s_.channel_keys, s_.token_keys);
        store(sums_ + t * kLanes, channels + tokens * factors_[w * frames + t]);
      }
      sum_over_lanes(sums_, s_.frames, frame_means_ + w * frames);
    }
    linear(count_, s_.frames, z_.few_frames, frame_means_, frames, layer.share1, few_, panel_columns(z_.few_frames));
    apply(count_, z_.few_frames, few_, panel_columns(z_.few_frames), layer.share1_bias, [](vfloat v) { return gelu(v); });
    linear(count_, z_.few_frames, s_.frames, few_, panel_columns(z_.few_frames), layer.share2, shares_, frames);
    apply(count_, s_.frames, shares_, frames, layer.share2_bias, [](vfloat v) { return sigmoid(v); });
  }

  // All that follows the weights, row by row: to the scores of the next layer, or to the poses.
  void refine(const Layer& layer, const Layer* next, int64_t part) {
    float* mixed = mixed_ + part * share_ * (z_.ld_hidden + z_.ld_dim);
    float* hidden = mixed + share_ * z_.ld_dim;
    share_of(part, rows_, [&](int64_t begin, int64_t end) {
      const int64_t count = end - begin;
      each_window(begin, end, [&](int64_t w, int64_t from, int64_t to) {
        float* left = left_ + (w * s_.frames + from) * z_.ld_left;
        for (int64_t t = from; t < to; ++t) {
          float* row = left + (t - from) * z_.ld_left;
          const float share = shares_[w * panel_columns(s_.frames) + t], factor = factors_[w * panel_columns(s_.frames) + t];
          for (int64_t k = 0; k < s_.channel_keys; k += kLanes)
            store_some(row + k, load_some(row + k, s_.channel_keys - k) * (1 - share), s_.channel_keys - k);
          for (int64_t k = s_.channel_keys; k < z_.keys; k += kLanes)
            store_some(row + k, load_some(row + k, z_.keys - k) * (share * factor), z_.keys - k);
        }
        gemm(to - from, panel_columns(s_.dim), z_.keys, left, z_.ld_left, 1, right_ + w * z_.keys * z_.ld_dim, z_.ld_dim,
                mixed + (w * s_.frames + from - begin) * z_.ld_dim, z_.ld_dim);
      });
      float* x = x_ + begin * z_.ld_dim;
      linear(count, s_.dim, s_.dim, mixed, z_.ld_dim, layer.proj, x, z_.ld_dim, true);
      normalize(count, s_.dim, x, z_.ld_dim, layer.proj_bias, layer.norm1, layer.norm1_bias);
      linear(count, s_.dim, s_.hidden, x, z_.ld_dim, layer.fc1, hidden, z_.ld_hidden);
      apply(count, s_.hidden, hidden, z_.ld_hidden, layer.fc1_bias, [](vfloat v) { return gelu(v); });
      linear(count, s_.hidden, s_.dim, hidden, z_.ld_hidden, layer.fc2, x, z_.ld_dim, true);
      normalize(count, s_.dim, x, z_.ld_dim, layer.fc2_bias, layer.norm2, layer.norm2_bias);
      if (next) return scores(*next, begin, end);

      normalize(count, s_.dim, x, z_.ld_dim, nullptr, norm_, norm_bias_);
      float* poses = poses_ + begin * z_.ld_pose;
      linear(count, s_.dim, s_.poses, x, z_.ld_dim, fc_, poses, z_.ld_pose, true);
      apply(count, s_.poses, poses, z_.ld_pose, fc_bias_, [](vfloat v) { return v; });
      store_rows(poses, z_.ld_pose, count, s_.poses, out_ + (first_ * s_.frames + begin) * s_.poses, s_.poses);
    });
  }

  const MixSynthEncoder& s_;
  const Sizes z_;
  T* out_;
  Team& team_;
  const int64_t parts_, share_;  // how many threads, and rows that one has at most
  int64_t first_ = 0, count_ = 0, rows_ = 0;
  float *keyframes_, *poses_, *x_, *left_, *right_, *frame_means_, *gates_, *factors_, *shares_, *channel_means_,
      *channel_tops_, *channel_gates_, *sums_, *few_, *few_channels_, *key_means_, *mixed_;
  vint inside_;  // of the last vector of the frames' weights
  const float *interpolation_ = nullptr, *interpolation_bias_ = nullptr, *embedding_ = nullptr, *embedding_bias_ = nullptr,
              *norm_ = nullptr, *norm_bias_ = nullptr, *fc_ = nullptr, *fc_bias_ = nullptr;
  const Arena arena_;
};

template <class T>
static void forward(const MixSynthEncoder& s, T* out) {
  if (s.windows == 0) return;
  if (s.windows < s.threads) {
    Team team(s.threads);
    Network<T> network(s, out, 1, team);
    return team.run([&] {
      for (int64_t w = 0; w < s.windows; ++w) network(w, 1);
    });
  }
  const int64_t wanted = (kGroup + s.frames - 1) / s.frames;
  const int64_t group = smaller(wanted, (s.windows + s.threads - 1) / s.threads), groups = (s.windows + group - 1) / group;
  parallel_ranges(groups, [&](int64_t begin, int64_t end) {
    const FlushDenormals flush;
    Team alone(1);
    Network<T> network(s, out, group, alone);
    for (int64_t g = begin; g < end; ++g) network(g * group, smaller(group, s.windows - g * group));
  });
}

}  // namespace

void mixsynth_encoder_forward(const MixSynthEncoder& s, void* out) {
  if (s.bfloat16) return forward(s, static_cast<bfloat16*>(out));
  forward(s, static_cast<float*>(out));
}

}  // namespace lifter::LIFTER_CAPABILITY
