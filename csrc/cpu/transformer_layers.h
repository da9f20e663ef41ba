// The layers of transformer blocks: branches that are added to a map of rows. The sum stays float32 between the branches of a
// block; the input of a layer has the dtype of its product. A call of one frame waits for the weights to come from memory: a
// panel of them is read once, and meets all rows in the cache.
#pragma once
#include "arena.h"
#include "gemm.h"
#include "transformer_block.h"
#include "weight_panels.h"

namespace lifter::LIFTER_CAPABILITY {

constexpr int64_t kRows = 4096;               // of clips that go through blocks together, if they are several
constexpr int64_t kTilesAtOnce = 8;           // tiles of rows whose products are stored together
constexpr int64_t kCachedBytes = 400 << 10;   // bytes of rows that the second cache should hold

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
    vectors_ += panel_columns(n);
    return v;
  }
  Norm norm(int64_t n) {
    const float* weight = vector(n);
    return {weight, vector(n)};
  }
  Linear<Packed> linear(int64_t in, int64_t out, bool has_bias = true) {
    const Linear<Packed> l{in, out, weights_, has_bias ? vector(out) : nullptr};
    weights_ += Operand<Packed>::depth(in) * panel_columns(out);
    return l;
  }

 private:
  const Packed* weights_;
  const float* vectors_;
};

// epilogue(j, v, count) gets the normalized vectors of a row, of whose `count` first lanes are elements.
template <class T, class Epilogue>
LIFTER_INLINE void normalize(const T* x, int64_t n, const Norm& norm, float epsilon, const Epilogue& epilogue) {
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
    const vfloat unit = (load_some(x + j, left) - mean) * factor;
    epilogue(j, unit * load_some(norm.weight + j, left) + load_some(norm.bias + j, left), left);
  }
}

// The dtype of what is packed as floats or as pairs.
template <class Packed>
using Dtype = std::conditional_t<std::is_same<Packed, Pair>::value, bfloat16, float>;

// Calls f(Unit(), Packed()): weights of bfloat16 are packed as pairs, whether the machine multiplies those or not.
template <class F>
LIFTER_INLINE void with_packed_precision(Precision precision, const F& f) {
  switch (precision) {
    case Precision::float32: return f(float(), float());
    case Precision::bfloat16: return f(float(), Pair());
    case Precision::bfloat16_pairs: return f(Pair(), Pair());
  }
}

// `Unit` is what is multiplied, `Packed` what the weights consist of, floats or pairs.
template <class Unit, class Packed>
class TransformerLayers {
 protected:
  using Element = Dtype<Unit>;  // of a layer's input
  using T = Dtype<Packed>;      // of x and the result
  static constexpr Precision kPrecision = std::is_same<Unit, Pair>::value ? Precision::bfloat16_pairs : Precision::float32;

  // `widest` is how many channels the widest layer makes for a row.
  TransformerLayers(const Transformer& s, int64_t widest)
      : s_(s), rows_(s.batch * s.frames * s.joints), tiles_((rows_ + kTileRows - 1) / kTileRows),
        parameters_(static_cast<const Packed*>(s.weights), s.vectors),
        maps_([this](Arena& arena) { x_ = arena.take(rows_ * s_.dim), lse_ = arena.take(rows_ * s_.heads); }),
        inputs_([this](Arena& arena) {
          mixed_ = arena.take<Element>(rows_ * s_.dim), input_ = arena.take<Element>(rows_ * s_.dim);
        }),
        widest_([=](Arena& arena) { projections_ = hidden_ = arena.take<Element>(rows_ * widest); }) {}

  // How far rows of a layer's input are apart: whole pairs. `dim` is even.
  static constexpr int64_t row_of(int64_t n) { return std::is_same<Packed, Pair>::value ? n + n % 2 : n; }

  // to = from + attention of the `length` tokens of every row: of the joints of frames, or the frames of joints; `a` has the
  // mask.
  template <class From, class To>
  void attend(AxialAttention a, Mixer mixer, const From* from, To* to) {
    const bool frame_first = mixer == Mixer::joints;
    normalize_rows(parameters_.norm(s_.dim), s_.epsilon, from, input_);
    linear(parameters_.linear(s_.dim, 3 * s_.dim), input_, store_to(projections_, 3 * s_.dim));
    a.batch = s_.batch, a.heads = s_.heads, a.channels = s_.dim / s_.heads;
    a.rows = frame_first ? s_.frames : s_.joints, a.length = frame_first ? s_.joints : s_.frames;
    a.precision = kPrecision;
    a.qkv = projections_, a.part = s_.dim, a.scale = s_.scale;
    a.qkv_strides = strides(3 * s_.dim, frame_first), a.out_strides = strides(s_.dim, frame_first);
    axial_attention_forward(a, mixed_, lse_);
    linear(parameters_.linear(s_.dim, s_.dim), mixed_, add_to(from, to));
  }

  // to = from + what the MLP makes of it.
  template <class From, class To>
  void feed_forward(const From* from, To* to) {
    normalize_rows(parameters_.norm(s_.dim), s_.epsilon, from, input_);
    const int64_t ld = row_of(s_.hidden);
    if (ld != s_.hidden)  // the other half of the last pair
      for (int64_t i = 0; i < rows_; ++i) store1(hidden_ + i * ld + s_.hidden, 0);
    linear(parameters_.linear(s_.dim, s_.hidden), input_, [&](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      store_rounded(hidden_ + i * ld + j, gelu(v), left);
    });
    linear(parameters_.linear(s_.hidden, s_.dim), hidden_, add_to(from, to));
  }

  // Strides of a map of `width` channels per joint: its rows are frames and its tokens joints, or the other way round.
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

  template <class From, class To>
  void normalize_rows(const Norm& norm, float epsilon, const From* x, To* out) const {
    each_row([&](int64_t i) {
      normalize(x + i * s_.dim, s_.dim, norm, epsilon,
                [&](int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA { store_rounded(out + i * s_.dim + j, v, left); });
    });
  }

  // Epilogues: what becomes of a layer's results.
  static auto store_to(Element* out, int64_t ld) {
    return [=](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA { store_rounded(out + i * ld + j, v, left); };
  }
  template <class From, class To>
  auto add_to(const From* from, To* to) const {
    return [=, ld = s_.dim](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      const vfloat result = load_some(from + i * ld + j, left) + v;
      if constexpr (std::is_same<Unit, Pair>::value) store_rounded(to + i * ld + j, result, left);
      else store_some(to + i * ld + j, result, left);
    };
  }

  // epilogue(row, column, v, count) gets all of input W^T + bias. As many rows as the second cache holds meet all panels
  // before the next ones do; the smallest task is a tile of rows at a panel.
  template <class Epilogue>
  void linear(const Linear<Packed>& l, const Element* input, const Epilogue& epilogue) const {
    const Unit* rows = reinterpret_cast<const Unit*>(input);
    const int64_t packed_depth = Operand<Packed>::depth(l.in), depth = kWidened * packed_depth, columns = panel_columns(l.out);
    const int64_t panels = (columns + kPanelColumns - 1) / kPanelColumns;
    const int64_t held = kCachedBytes / int64_t(sizeof(Unit)) / (depth * kTileRows * kTilesAtOnce) * kTilesAtOnce;
    const int64_t group = smaller(tiles_, held ? held : kTilesAtOnce);  // tiles
    parallel_ranges(panels * tiles_, [&](int64_t begin, int64_t end) {
      const FlushDenormals flush;
      float *results, *widened;
      const Arena arena([&](Arena& arena) {
        results = arena.take(kPanelColumns * kTilesAtOnce * kTileRows);
        widened = arena.take(kPanelColumns * (kWidened - 1) * depth);
      });
      while (begin < end) {
        const int64_t first_tile = begin / (panels * group) * group, tiles = smaller(group, tiles_ - first_tile);
        const int64_t place = begin - first_tile * panels, first = place / tiles * kPanelColumns;
        const int64_t width = smaller(kPanelColumns, columns - first);
        const Unit* panel = units(l.weight + first * packed_depth, depth, width, widened);
        for (const int64_t stop = smaller(end, begin + tiles - place % tiles); begin < stop;) {
          const int64_t next = smaller(stop, begin + kTilesAtOnce);
          const int64_t row = (first_tile + (begin - first_tile * panels) % tiles) * kTileRows;
          const int64_t count = smaller(rows_ - row, (next - begin) * kTileRows);
          gemm(count, width, depth, rows + row * depth, depth, 1, panel, width, results, kPanelColumns);
          for (int64_t i = 0; i < count; ++i)
            for (int64_t j = 0; j < smaller(width, l.out - first); j += kLanes) {
              const vfloat v = load(results + i * kPanelColumns + j);
              epilogue(row + i, first + j, l.bias ? v + load(l.bias + first + j) : v, l.out - first - j);
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

  static constexpr int64_t kWidened = std::is_same<Unit, Packed>::value ? 1 : 2;  // units that a packed one becomes

  const Transformer& s_;
  const int64_t rows_, tiles_;
  Reader<Packed> parameters_;
  float *x_, *lse_;  // the sum
  Element *mixed_, *input_, *projections_, *hidden_;  // the last two in one place: they are never needed at once
  const Arena maps_, inputs_, widest_;  // three: memory as large as all would go back to the system, see lifter/_library.py
};

// Calls f(s, first, out) for as many clips at a time as the caches hold, in equal parts; `first` is the number of their first.
// A row of `out` has `channels`.
template <class Sizes, class T, class F>
void for_clips(Sizes s, T* out, int64_t channels, const F& f) {
  const int64_t batch = s.batch, rows = s.frames * s.joints, held = larger(1, kRows / rows);
  const int64_t groups = (batch + held - 1) / held;
  const int64_t most = groups ? (batch + groups - 1) / groups : 1;
  for (int64_t first = 0; first < batch; first += most) {
    s.batch = smaller(most, batch - first);
    f(s, first, out + first * rows * channels);
    s.x = static_cast<const T*>(s.x) + s.batch * rows * s.dim;
    const int64_t masks = s.batch * s.along_frames.mask_strides[0];
    if (s.along_frames.allowed) s.along_frames.allowed += masks;
    if (s.along_frames.additive) s.along_frames.additive += masks;
    if (s.along_frames.bitmask) s.along_frames.bitmask += masks;
  }
}

}  // namespace lifter::LIFTER_CAPABILITY
