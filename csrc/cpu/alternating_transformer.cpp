// Transformer blocks that mix joints and frames in turn, layer after layer, each shared by all threads. A call of one frame
// waits for the weights to come from memory: a panel of them is read once, and meets all rows in the cache. The residual map
// stays float32; what a layer reads is of the dtype that is multiplied.
#include "alternating_transformer.h"

#include "panels.h"
#include "product.h"
#include "retention.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kPose = 3;            // coordinates of a joint
constexpr float kBlockEpsilon = 1e-6f;  // of the norms in and after blocks, and
constexpr float kEpsilon = 1e-5f;       // of those in retention and head
constexpr int64_t kRows = 4096;         // of clips that go through the network together, if they are several
constexpr int64_t kAtOnce = 8;          // tiles of rows whose products are stored together
constexpr int64_t kHeld = 400 << 10;    // bytes of rows that the second cache should hold

struct Norm {
  const float *weight, *bias;
};

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

// `Unit` is what is multiplied, `Packed` what the weights consist of, floats or pairs.
template <class Unit, class Packed>
class Network {
  using Element = std::conditional_t<std::is_same<Unit, Pair>::value, bfloat16, float>;  // of a layer's input
  using T = std::conditional_t<std::is_same<Packed, Pair>::value, bfloat16, float>;      // of x and poses
  static constexpr int64_t kWidened = std::is_same<Unit, Packed>::value ? 1 : 2;         // units that a packed one becomes

 public:
  // `first` is the element of the states that the first clip's begin with.
  Network(const AlternatingTransformer& s, int64_t first, T* poses)
      : s_(s), first_(first), poses_(poses), rows_(s.batch * s.frames * s.joints), tiles_((rows_ + kTileRows - 1) / kTileRows),
        maps_(rows_ * (s.dim + s.heads) + 2 * kLanes), inputs_(size_of(2 * s.dim)), wide_(size_of(widest())),
        x_(maps_.take(rows_ * s.dim)), lse_(maps_.take(rows_ * s.heads)), mixed_(take(inputs_, s.dim)),
        input_(take(inputs_, s.dim)), projections_(take(wide_, widest())), hidden_(projections_) {}

  void operator()() {
    Reader<Packed> parameters(static_cast<const Packed*>(s_.weights), s_.vectors);
    const T* x = static_cast<const T*>(s_.x);
    each_row([&](int64_t i) {
      for (int64_t c = i * s_.dim, end = c + s_.dim; c < end; c += kLanes) store_some(x_ + c, load_some(x + c, end - c), end - c);
    });
    const Norm spatial_norm = parameters.norm(s_.dim), temporal_norm = parameters.norm(s_.dim);
    for (int64_t i = 0; i < s_.depth; ++i) {
      attend(parameters, AxialAttention{}, s_.frames, s_.joints, true);
      feed_forward(parameters);
      normalize_rows(spatial_norm, kBlockEpsilon, x_);
      if (i == 0) add_positions(parameters.vector(s_.positions * s_.dim));
      if (s_.retains) retain(parameters, i);
      else attend(parameters, s_.along_frames, s_.joints, s_.frames, false);
      feed_forward(parameters);
      normalize_rows(temporal_norm, kBlockEpsilon, x_);
    }
    normalize_rows(parameters.norm(s_.dim), kEpsilon, input_);
    linear(parameters.linear(s_.dim, kPose), input_, [&](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      store_some(poses_ + i * kPose + j, v, left);
    });
  }

 private:
  // How far rows of a layer's input are apart: whole pairs. `dim` is even.
  static constexpr int64_t row_of(int64_t n) { return std::is_same<Packed, Pair>::value ? n + n % 2 : n; }
  // Projections, or hidden channels.
  int64_t widest() const { return larger((s_.retains ? 4 : 3) * s_.dim, row_of(s_.hidden)); }
  int64_t size_of(int64_t row) const { return rows_ * row * sizeof(Element) / sizeof(float) + 4 * kLanes; }
  Element* take(Scratch& scratch, int64_t row) {
    return reinterpret_cast<Element*>(scratch.take(rows_ * row * sizeof(Element) / sizeof(float) + 1));
  }

  void add_positions(const float* positions) const {
    if (s_.positions)
      each_row([&](int64_t i) {
        const float* position = positions + i / s_.joints % s_.frames * s_.dim;
        for (int64_t c = 0; c < s_.dim; c += kLanes)
          store_some(x_ + i * s_.dim + c, load_some(x_ + i * s_.dim + c, s_.dim - c) + load_some(position + c, s_.dim - c),
                     s_.dim - c);
      });
  }

  // Attention of the `length` tokens of every row: of the joints of frames, or the frames of joints; `a` has the mask.
  void attend(Reader<Packed>& parameters, AxialAttention a, int64_t rows, int64_t length, bool frame_first) {
    normalize_rows(parameters.norm(s_.dim), kBlockEpsilon, input_);
    linear(parameters.linear(s_.dim, 3 * s_.dim), input_, into(projections_, 3 * s_.dim));
    a.batch = s_.batch, a.rows = rows, a.length = length, a.heads = s_.heads, a.channels = s_.dim / s_.heads;
    a.bfloat16 = a.pairs = std::is_same<Unit, Pair>::value;
    a.qkv = projections_, a.part = s_.dim, a.scale = s_.scale;
    a.qkv_strides = strides(3 * s_.dim, frame_first), a.out_strides = strides(s_.dim, frame_first);
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
    r.q_strides = r.k_strides = r.v_strides = strides(4 * s_.dim, false), r.out_strides = strides(s_.dim, false);
    r.q = projections_, r.k = projections_ + s_.dim, r.v = projections_ + 2 * s_.dim;
    r.decay = parameters.vector(s_.joints * s_.heads);
    r.state = s_.states ? s_.states[layer] + first_ : nullptr;
    r.turns = s_.turns, r.turns_row = s_.turns_row;
    retention_forward(r, mixed_, s_.finals ? s_.finals[layer] + first_ : nullptr);

    const Norm norm = parameters.norm(s_.dim);
    each_row([&](int64_t i) {
      const Element* gates = projections_ + i * 4 * s_.dim + 3 * s_.dim;
      for (int64_t c = 0; c < s_.dim; c += r.values) {
        Element* head = mixed_ + i * s_.dim + c;
        normalize(head, r.values, {norm.weight + c, norm.bias + c}, kEpsilon, [&](int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
          const vfloat gate = load_some(gates + c + j, left);
          store_rounded(head + j, v * gate * sigmoid(gate), left);
        });
      }
    });
    linear(parameters.linear(s_.dim, s_.dim, false), mixed_, added());
  }

  void feed_forward(Reader<Packed>& parameters) {
    normalize_rows(parameters.norm(s_.dim), kBlockEpsilon, input_);
    const int64_t ld = row_of(s_.hidden);
    if (ld != s_.hidden)  // the other half of the last pair
      for (int64_t i = 0; i < rows_; ++i) store1(hidden_ + i * ld + s_.hidden, 0);
    linear(parameters.linear(s_.dim, s_.hidden), input_, [&](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      store_rounded(hidden_ + i * ld + j, gelu(v), left);
    });
    linear(parameters.linear(s_.hidden, s_.dim), hidden_, added());
  }

  // Of `width` channels per joint, where the rows are frames and the tokens joints, or the other way round.
  Strides strides(int64_t width, bool frame_first) const {
    const int64_t joint = width, frame = s_.joints * width;
    return {s_.frames * frame, frame_first ? frame : joint, frame_first ? joint : frame, s_.dim / s_.heads};
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
        store_rounded(out + i * s_.dim + j, v, left);
      });
    });
  }

  // What becomes of a layer's results.
  static auto into(Element* out, int64_t ld) {
    return [=](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA { store_rounded(out + i * ld + j, v, left); };
  }
  auto added() const {
    return [x = x_, ld = s_.dim](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      store_some(x + i * ld + j, load_some(x + i * ld + j, left) + v, left);
    };
  }

  // put(row, column, v, count) gets all of input W^T + bias. So many rows as the second cache holds meet all panels, before the
  // next ones do; the smallest task is a tile of rows at a panel.
  template <class Put>
  void linear(const Linear<Packed>& l, const Element* input, const Put& put) const {
    const Unit* rows = reinterpret_cast<const Unit*>(input);
    const int64_t packed_depth = Operand<Packed>::depth(l.in), depth = kWidened * packed_depth, columns = wide(l.out);
    const int64_t panels = (columns + kPanel - 1) / kPanel;
    const int64_t held = kHeld / int64_t(sizeof(Unit)) / (depth * kTileRows * kAtOnce) * kAtOnce;
    const int64_t group = smaller(tiles_, held ? held : kAtOnce);  // tiles
    parallel_ranges(panels * tiles_, [&](int64_t begin, int64_t end) {
      const FlushDenormals flush;
      Scratch scratch(kPanel * (kAtOnce * kTileRows + (kWidened - 1) * depth));
      float *results = scratch.take(kPanel * kAtOnce * kTileRows), *widened = scratch.take(kPanel * (kWidened - 1) * depth);
      while (begin < end) {
        const int64_t first_tile = begin / (panels * group) * group, tiles = smaller(group, tiles_ - first_tile);
        const int64_t place = begin - first_tile * panels, first = place / tiles * kPanel, width = smaller(kPanel, columns - first);
        const Unit* panel = units(l.weight + first * packed_depth, depth, width, widened);
        for (const int64_t stop = smaller(end, begin + tiles - place % tiles); begin < stop;) {
          const int64_t next = smaller(stop, begin + kAtOnce);
          const int64_t row = (first_tile + (begin - first_tile * panels) % tiles) * kTileRows;
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

  const AlternatingTransformer& s_;
  const int64_t first_;
  T* poses_;
  const int64_t rows_, tiles_;
  Scratch maps_, inputs_, wide_;
  float *x_, *lse_;
  Element *mixed_, *input_, *projections_, *hidden_;  // the last two in one place: they are never needed at once
};

// So many clips at a time as the caches hold.
template <class Unit, class Packed, class T>
void forward(AlternatingTransformer s, T* poses) {
  const int64_t batch = s.batch, rows = s.frames * s.joints, most = larger(1, kRows / rows);
  const int64_t state = s.joints * s.dim * (s.dim / s.heads);
  for (int64_t first = 0; first < batch; first += most) {
    s.batch = smaller(most, batch - first);
    Network<Unit, Packed>(s, first * state, poses + first * rows * kPose)();
    s.x = static_cast<const T*>(s.x) + s.batch * rows * s.dim;
    const int64_t masks = s.batch * s.along_frames.mask_strides[0];
    if (s.along_frames.allowed) s.along_frames.allowed += masks;
    if (s.along_frames.additive) s.along_frames.additive += masks;
    if (s.along_frames.words) s.along_frames.words += masks;
  }
}

}  // namespace

void alternating_transformer_forward(const AlternatingTransformer& s, void* poses) {
  if (!s.bfloat16) return forward<float, float>(s, static_cast<float*>(poses));
  if (s.pairs) return forward<Pair, Pair>(s, static_cast<bfloat16*>(poses));
  forward<float, Pair>(s, static_cast<bfloat16*>(poses));
}

}  // namespace lifter::LIFTER_CAPABILITY
