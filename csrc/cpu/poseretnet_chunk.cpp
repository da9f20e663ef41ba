// All layers of PoseRetNet on a few rows, which are the joints of frames. Such a call waits for the weights to come from
// memory: each panel of them is read once, and meets all rows in the cache. The residual map stays float32; what a layer reads
// is of the dtype that is multiplied.
#include "poseretnet_chunk.h"

#include "axial_attention.h"
#include "panels.h"
#include "product.h"
#include "retention.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kPose = 3;              // coordinates of a joint
constexpr float kBlockEpsilon = 1e-6f;    // of the norms in and after blocks, and
constexpr float kEpsilon = 1e-5f;         // of those in retention and head
constexpr int64_t kGroup = 8 * kTileRows;  // rows that meet a panel in one go

struct Norm {
  const float *weight, *bias;
};

// `Unit` is what is multiplied, `Packed` what the weights consist of, floats or pairs.
template <class Packed>
struct Linear {
  int64_t in, out;
  const Packed* weight;
  const float* bias;
};

// The parameters, read in order.
template <class Packed>
class Reader {
 public:
  Reader(const Packed* weights, const float* vectors) : weights_(weights), vectors_(vectors) {}

  const float* vector(int64_t n) {
    const float* v = vectors_;
    vectors_ += wide(n);
    return v;
  }
  Norm norm(int64_t n) {
    const float* weight = vector(n);
    return {weight, vector(n)};
  }
  Linear<Packed> linear(int64_t in, int64_t out, bool has_bias = true) {
    const Linear<Packed> l{in, out, weights_, has_bias ? vector(out) : nullptr};
    weights_ += Operand<Packed>::depth(in) * wide(out);
    return l;
  }

 private:
  const Packed* weights_;
  const float* vectors_;
};

// put(j, v, count) gets the normalized vectors of a row, of whose `count` first lanes are elements.
template <class T, class Put>
LIFTER_INLINE void normalize(const T* x, int64_t n, const Norm& norm, float epsilon, const Put& put) {
  vfloat sum = {}, squares = {};
  for (int64_t j = 0; j < n; j += kLanes) sum += load_some(x + j, n - j);
  const float mean = sum_lanes(sum) / n;
  float means[kLanes];
  store(means, splat(mean));
  for (int64_t j = 0; j < n; j += kLanes) {
    const vfloat d = load_some(x + j, n - j) - load_some(means, n - j);  // zero where there is no element
    squares += d * d;
  }
  const float factor = 1 / __builtin_sqrtf(sum_lanes(squares) / n + epsilon);
  for (int64_t j = 0; j < n; j += kLanes) {
    const int64_t left = n - j;
    put(j, (load_some(x + j, left) - mean) * factor * load_some(norm.weight + j, left) + load_some(norm.bias + j, left), left);
  }
}

template <class Unit, class Packed>
class Network {
  using Element = std::conditional_t<std::is_same<Unit, Pair>::value, bfloat16, float>;  // of a layer's input
  using T = std::conditional_t<std::is_same<Packed, Pair>::value, bfloat16, float>;      // of keypoints and poses
  static constexpr int64_t kWidened = std::is_same<Unit, Packed>::value ? 1 : 2;         // units that a packed one becomes

 public:
  Network(const PoseRetNetChunk& s, T* poses)
      : s_(s), poses_(poses), rows_(s.batch * s.frames * s.joints), tiles_((rows_ + kTileRows - 1) / kTileRows),
        scratch_(rows_ * (8 * s.dim + row_of(s.hidden) + row_of(s.channels) + s.heads) + 7 * kLanes),
        x_(scratch_.take(rows_ * s.dim)), lse_(scratch_.take(rows_ * s.heads)), projections_(take(4 * s.dim)),
        mixed_(take(s.dim)), input_(take(s.dim)), hidden_(take(row_of(s.hidden))), keypoints_(take(row_of(s.channels))) {}

  void operator()() {
    Reader<Packed> parameters(static_cast<const Packed*>(s_.weights), s_.vectors);
    embed(parameters);
    const Norm spatial_norm = parameters.norm(s_.dim), temporal_norm = parameters.norm(s_.dim);
    for (int64_t i = 0; i < s_.depth; ++i) {
      attend(parameters);
      feed_forward(parameters);
      normalize_rows(spatial_norm, kBlockEpsilon, x_);
      retain(parameters, i);
      feed_forward(parameters);
      normalize_rows(temporal_norm, kBlockEpsilon, x_);
    }
    normalize_rows(parameters.norm(s_.dim), kEpsilon, input_);
    linear(parameters.linear(s_.dim, kPose), input_, into(poses_, kPose));
  }

 private:
  // How far rows of a layer's input are apart: whole pairs.
  static constexpr int64_t row_of(int64_t n) { return std::is_same<Packed, Pair>::value ? n + n % 2 : n; }
  Element* take(int64_t row) { return reinterpret_cast<Element*>(scratch_.take(rows_ * row)); }

  void embed(Reader<Packed>& parameters) {
    const T* keypoints = static_cast<const T*>(s_.keypoints);
    memset(keypoints_, 0, rows_ * row_of(s_.channels) * sizeof(Element));
    memset(hidden_, 0, rows_ * row_of(s_.hidden) * sizeof(Element));
    const float* position = parameters.vector(s_.joints * s_.dim);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t c = 0; c < s_.channels; ++c)
        store1(keypoints_ + i * row_of(s_.channels) + c, load1(keypoints + i * s_.channels + c));
      memcpy(x_ + i * s_.dim, position + i % s_.joints * s_.dim, s_.dim * sizeof(float));
    }
    linear(parameters.linear(s_.channels, s_.dim), keypoints_, added());
  }

  // Attention among the joints of a frame.
  void attend(Reader<Packed>& parameters) {
    normalize_rows(parameters.norm(s_.dim), kBlockEpsilon, input_);
    linear(parameters.linear(s_.dim, 3 * s_.dim), input_, into(projections_, 3 * s_.dim));
    AxialAttention a{};
    a.batch = s_.batch, a.rows = s_.frames, a.length = s_.joints, a.heads = s_.heads, a.channels = s_.dim / s_.heads;
    a.bfloat16 = a.pairs = std::is_same<Unit, Pair>::value;
    a.qkv = projections_, a.part = s_.dim, a.scale = s_.scale;
    a.qkv_strides = frames_first(3 * s_.dim), a.out_strides = frames_first(s_.dim);
    axial_attention_forward(a, mixed_, lse_);
    linear(parameters.linear(s_.dim, s_.dim), mixed_, added());
  }

  // Retention along the frames of a joint, its norm and its gate.
  void retain(Reader<Packed>& parameters, int64_t layer) {
    normalize_rows(parameters.norm(s_.dim), kBlockEpsilon, input_);
    linear(parameters.linear(s_.dim, 4 * s_.dim, false), input_, into(projections_, 4 * s_.dim));
    Retention r{};
    r.batch = s_.batch, r.frames = s_.frames, r.joints = s_.joints, r.heads = s_.heads, r.chunk = s_.chunk;
    r.keys = r.values = s_.dim / s_.heads;
    r.causal = s_.causal, r.bfloat16 = r.pairs = std::is_same<Unit, Pair>::value, r.scale = 1;
    r.q_strides = r.k_strides = r.v_strides = joints_first(4 * s_.dim), r.out_strides = joints_first(s_.dim);
    r.q = projections_, r.k = projections_ + s_.dim, r.v = projections_ + 2 * s_.dim;
    r.decay = parameters.vector(s_.joints * s_.heads);
    r.state = s_.states ? s_.states[layer] : nullptr;
    r.turns = s_.turns, r.turns_row = wide(r.keys);
    retention_forward(r, mixed_, s_.finals ? s_.finals[layer] : nullptr);

    const Norm norm = parameters.norm(s_.dim);
    each_row([&](int64_t i) {
      const Element* gates = projections_ + i * 4 * s_.dim + 3 * s_.dim;
      for (int64_t c = 0; c < s_.dim; c += r.values) {
        Element* head = mixed_ + i * s_.dim + c;
        normalize(head, r.values, {norm.weight + c, norm.bias + c}, kEpsilon, [&](int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
          const vfloat gate = load_some(gates + c + j, left);
          store_some(head + j, v * gate * sigmoid(gate), left);
        });
      }
    });
    linear(parameters.linear(s_.dim, s_.dim, false), mixed_, added());
  }

  void feed_forward(Reader<Packed>& parameters) {
    normalize_rows(parameters.norm(s_.dim), kBlockEpsilon, input_);
    const int64_t ld = row_of(s_.hidden);
    linear(parameters.linear(s_.dim, s_.hidden), input_, [&](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      store_some(hidden_ + i * ld + j, gelu(v), left);
    });
    linear(parameters.linear(s_.hidden, s_.dim), hidden_, added());
  }

  // Elements from a (clip, row, token, head) to the next in rows of `width` channels: rows are frames, or joints.
  Strides frames_first(int64_t width) const {
    return {s_.frames * s_.joints * width, s_.joints * width, width, s_.dim / s_.heads};
  }
  Strides joints_first(int64_t width) const {
    return {s_.frames * s_.joints * width, width, s_.joints * width, s_.dim / s_.heads};
  }

  template <class F>
  void each_row(const F& f) const {
    parallel_ranges(rows_, [&](int64_t begin, int64_t end) {
      const FlushDenormals flush;
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  }

  template <class To>
  void normalize_rows(const Norm& norm, float epsilon, To* out) const {
    each_row([&](int64_t i) {
      normalize(x_ + i * s_.dim, s_.dim, norm, epsilon, [&](int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
        store_some(out + i * s_.dim + j, v, left);
      });
    });
  }

  // What becomes of a layer's results.
  template <class To>
  static auto into(To* out, int64_t ld) {
    return [=](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA { store_some(out + i * ld + j, v, left); };
  }
  auto added() const {
    return [x = x_, ld = s_.dim](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      store_some(x + i * ld + j, load_some(x + i * ld + j, left) + v, left);
    };
  }

  // put(row, column, v, count) gets all of input W^T + bias. A task is a tile of rows at a panel.
  template <class Put>
  void linear(const Linear<Packed>& l, const Element* input, const Put& put) const {
    const Unit* rows = reinterpret_cast<const Unit*>(input);
    const int64_t packed_depth = Operand<Packed>::depth(l.in), depth = kWidened * packed_depth, columns = wide(l.out);
    parallel_ranges((columns + kPanel - 1) / kPanel * tiles_, [&](int64_t begin, int64_t end) {
      const FlushDenormals flush;
      Scratch scratch(kPanel * (kGroup + (kWidened - 1) * depth));
      float *results = scratch.take(kPanel * kGroup), *widened = scratch.take(kPanel * (kWidened - 1) * depth);
      while (begin < end) {
        const int64_t first = begin / tiles_ * kPanel, width = smaller(kPanel, columns - first);
        const Unit* panel = units(l.weight + first * packed_depth, depth, width, widened);
        for (const int64_t stop = smaller(end, (begin / tiles_ + 1) * tiles_); begin < stop;) {
          const int64_t row = begin % tiles_ * kTileRows, next = smaller(stop, begin + kGroup / kTileRows);
          const int64_t count = smaller(rows_ - row, (next - begin) * kTileRows);
          product(count, width, depth, rows + row * depth, depth, 1, panel, width, results, kPanel);
          for (int64_t i = 0; i < count; ++i)
            for (int64_t j = 0; j < smaller(width, l.out - first); j += kLanes) {
              const vfloat v = load(results + i * kPanel + j);
              put(row + i, first + j, l.bias ? v + load(l.bias + first + j) : v, l.out - first - j);
            }
          begin = next;
        }
      }
    });
  }

  // A panel as it is multiplied: where the machine has no product of pairs, they become two rows of floats.
  static const Unit* units(const Packed* panel, int64_t depth, int64_t width, float* widened) {
    if constexpr (kWidened == 1) return panel;
    else {
      for (int64_t k = 0; k < depth; k += 2)
        for (int64_t j = 0; j < width; j += kLanes, panel += kLanes) {
          const vuint pairs = (vuint)load(panel);
          store(widened + k * width + j, (vfloat)(pairs << 16));
          store(widened + (k + 1) * width + j, (vfloat)(pairs & 0xffff0000u));
        }
      return widened;
    }
  }

  const PoseRetNetChunk& s_;
  T* poses_;
  const int64_t rows_, tiles_;
  Scratch scratch_;
  float *x_, *lse_;
  Element *projections_, *mixed_, *input_, *hidden_, *keypoints_;
};

template <class Unit, class Packed, class T>
static void forward(const PoseRetNetChunk& s, T* poses) {
  if (s.batch) Network<Unit, Packed>(s, poses)();
}

}  // namespace

void poseretnet_chunk_forward(const PoseRetNetChunk& s, void* poses) {
  if (!s.bfloat16) return forward<float, float>(s, static_cast<float*>(poses));
  if (s.pairs) return forward<Pair, Pair>(s, static_cast<bfloat16*>(poses));
  forward<float, Pair>(s, static_cast<bfloat16*>(poses));
}

}  // namespace lifter::LIFTER_CAPABILITY
