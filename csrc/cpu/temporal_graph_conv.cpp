// Attention of a joint's frames to each other, times a graph. The scores are symmetric, and so is what meets the frames in
// their gradient: a thread keeps all (frames, frames) of a joint, no more than a few graphs, to compute but half of the
// first and to add the transposed of the second. `gemm` runs as fast from the second cache as from the first.
#include "temporal_graph_conv.h"

#include "arena.h"
#include "gemm.h"
#include "softmax.h"
#include "work_item.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kRows = 48;  // of a block of scores, whole vectors: few, since its square on the diagonal is computed twice

// Applies scale, mask and graph to the scores and weights of one joint.
class Rules {
 public:
  Rules(const TemporalGraphConv& s, const WorkItem& p) : s_(s), words_((s.frames + 31) / 32) {
    if (s.mask) mask_ = s.mask + p.number * s.frames * words_;
    for (int i = 0; i < kLanes; ++i) lane_[i] = i, bit_[i] = 1u << i;
  }

  // Products of frame `i` to scores; of what it does not see, and of what is no frame, minus infinity.
  LIFTER_MEMBER void mask(float* row, int64_t i) const {
    for (int64_t j = 0; j < s_.frames; j += kLanes) {
      vint seen = lane_ < (vint{} + static_cast<int32_t>(s_.frames - j));
      if (mask_) {
        const uint32_t bits = static_cast<uint32_t>(mask_[i * words_ + j / 32]) >> (j % 32);
        seen &= ((vuint{} + bits) & bit_) != 0;
      }
      store(row + j, seen ? load(row + j) * s_.scale : splat(-INFINITY));
    }
  }

  LIFTER_MEMBER vfloat graph(int64_t i, int64_t j) const {
    return load_some(s_.graph + i * s_.frames + j, s_.frames - j);
  }
  LIFTER_MEMBER vfloat weigh(int64_t i, int64_t j, vfloat weight) const { return weight * graph(i, j); }

 private:
  const TemporalGraphConv& s_;
  const int64_t words_;
  const int32_t* mask_ = nullptr;
  vint lane_;
  vuint bit_;
};

// The frames of a joint, and the products of all pairs of them.
template <class T, class Unit>
class Frames {
  using Op = Operand<Unit>;

 public:
  explicit Frames(const TemporalGraphConv& s)
      : s_(s), width_(padded(s.frames)), ld_(leading_dimension(s.frames)), channels_(leading_dimension(s.channels)),
        units_(leading_dimension(Op::depth(s.channels))),
        arena_([this](Arena& arena) { lay_out(arena); }) {}

 protected:
  void load_frames(const WorkItem& p) {
    load_rows(static_cast<const T*>(s_.x) + p.offset(s_.x_strides), s_.x_strides.token, s_.frames, s_.channels, rows_,
              channels_, 0);
    const Unit* units = Op::over_columns(rows_, channels_, s_.frames, padded(s_.channels), row_units_, units_);
    transpose_rows(units, units_, s_.frames, Op::depth(s_.channels), columns_, ld_);
    values_ = Op::over_rows(rows_, channels_, s_.frames, padded(s_.channels), rows_);
  }

  // Completes the rows of products from `first` on: before the diagonal, earlier blocks have done so.
  void multiply(int64_t first, int64_t count) {
    float* block = scores_ + first * ld_;
    const Unit* columns = Op::of(columns_);
    gemm(count, width_ - first, Op::depth(s_.channels), columns + first, 1, ld_, columns + first, ld_,
            block + first, ld_);
    const int64_t next = first + count;
    if (next < s_.frames)
      transpose_rows(block + next, ld_, count, s_.frames - next, scores_ + next * ld_ + first, ld_);
  }

  const TemporalGraphConv& s_;
  const int64_t width_, ld_, channels_, units_;
  const Unit* values_ = nullptr;  // the frames as what is summed
  float *rows_, *row_units_, *columns_, *scores_;

 private:
  void lay_out(Arena& arena) {
    rows_ = arena.take(s_.frames * channels_), row_units_ = arena.take(s_.frames * units_);
    columns_ = arena.take(s_.channels * ld_), scores_ = arena.take(s_.frames * ld_);
  }
  const Arena arena_;
};

template <class T, class Unit>
class Forward : Frames<T, Unit> {
  using Op = Operand<Unit>;
  using Base = Frames<T, Unit>;
  using Base::s_, Base::width_, Base::ld_, Base::channels_, Base::scores_, Base::values_;

 public:
  Forward(const TemporalGraphConv& s, T* out, float* lse)
      : Base(s), out_(out), lse_(lse), arena_([this](Arena& arena) { sums_ = arena.take(kRows * channels_); }) {}

  void operator()(const WorkItem& p, const WorkItem&) {
    this->load_frames(p);
    const Rules rules(s_, p);
    for (int64_t i = 0; i < s_.frames; i += kRows) block(p, rules, i, smaller(kRows, s_.frames - i));
  }

 private:
  void block(const WorkItem& p, const Rules& rules, int64_t first, int64_t count) {
    this->multiply(first, count);
    float* weights = scores_ + first * ld_;
    alignas(64) float tops[padded(kRows)] = {}, totals[padded(kRows)] = {};
    for (int64_t i = 0; i < count; ++i)
      tops[i] = softmax<Op::kPairs>(rules, first + i, width_, weights + i * ld_, totals + i);
    gemm(count, padded(s_.channels), Op::depth(s_.frames), Op::of(weights), ld_, 1, values_, channels_, sums_,
            channels_);
    store_attended(p, s_.out_strides, first, count, s_.channels, sums_, channels_, totals, tops, out_, lse_);
  }

  T* out_;
  float *lse_, *sums_;
  const Arena arena_;
};

template <class T, class Unit>
class Backward : Frames<T, Unit> {
  using Op = Operand<Unit>;
  using Base = Frames<T, Unit>;
  using Base::s_, Base::width_, Base::ld_, Base::channels_, Base::units_, Base::columns_, Base::scores_, Base::values_;

 public:
  Backward(const TemporalGraphConv& s, const TemporalGraphConvGradient& g)
      : Base(s), g_(g), arena_([this](Arena& arena) { lay_out(arena); }) {}

  // Adds to `dgraph`, if it has something already.
  void operator()(const WorkItem& p, float* dgraph, bool adds) {
    this->load_frames(p);
    load_rows(static_cast<const T*>(g_.dout) + p.offset(g_.dout_strides), g_.dout_strides.token, s_.frames, s_.channels,
              douts_, channels_, 0);
    const Rules rules(s_, p);
    for (int64_t i = 0; i < s_.frames; i += kRows) block(p, rules, dgraph, adds, i, smaller(kRows, s_.frames - i));

    add_transposed(dscores_);
    const Unit* douts = Op::over_rows(douts_, channels_, s_.frames, padded(s_.channels), douts_);
    const Unit* weights = Op::over_rows(scores_, ld_, s_.frames, width_, scores_);
    const Unit* dscores = Op::over_rows(dscores_, ld_, s_.frames, width_, dscores_);
    const int64_t cols = padded(s_.channels), depth = Op::depth(s_.frames);
    for (int64_t i = 0; i < s_.frames; i += kRows) {
      const int64_t count = smaller(kRows, s_.frames - i);
      gemm(count, cols, depth, weights + i, 1, ld_, douts, channels_, sums_, channels_);
      gemm(count, cols, depth, dscores + i, 1, ld_, values_, channels_, sums_, channels_, true);
      store_rows(sums_, channels_, count, s_.channels, static_cast<T*>(g_.dx) + p.offset(s_.out_strides, i),
                 s_.out_strides.token);
    }
  }

 private:
  void lay_out(Arena& arena) {
    douts_ = arena.take(s_.frames * channels_), sums_ = arena.take(kRows * channels_);
    dscores_ = arena.take(s_.frames * ld_), dout_units_ = arena.take(kRows * units_);
  }

  void block(const WorkItem& p, const Rules& rules, float* dgraph, bool adds, int64_t first, int64_t count) {
    this->multiply(first, count);
    const float* rows = douts_ + first * channels_;
    const Unit* douts = Op::over_columns(rows, channels_, count, padded(s_.channels), dout_units_, units_);
    gemm(count, width_, Op::depth(s_.channels), douts, units_, 1, Op::of(columns_), ld_, dscores_ + first * ld_,
            ld_);
    for (int64_t i = first; i < first + count; ++i) {
      const float lse = g_.lse[p.offset(s_.out_strides, i) / s_.channels];
      gradients(rules, i, lse, dgraph + i * s_.frames, adds);
    }
  }

  // Products of frame `i`, and of its dout, with all frames: to the weights that these met, and the gradients of its products.
  LIFTER_MEMBER void gradients(const Rules& rules, int64_t i, float lse, float* dgraph, bool adds) {
    float *row = scores_ + i * ld_, *drow = dscores_ + i * ld_;
    rules.mask(row, i);
    vfloat sum = {};
    for (int64_t j = 0; j < width_; j += kLanes) {
      const vfloat weight = weight_of(load(row + j), lse), to_graph = weight * load(drow + j);
      store(row + j, weight);
      store_some(dgraph + j, adds ? load_some(dgraph + j, s_.frames - j) + to_graph : to_graph, s_.frames - j);
      sum += to_graph * rules.graph(i, j);
    }
    const float mean = sum_lanes(sum);
    for (int64_t j = 0; j < width_; j += kLanes) {
      const vfloat weight = load(row + j), graph = rules.graph(i, j);
      store(row + j, weight * graph);
      store(drow + j, weight * (load(drow + j) * graph - mean) * s_.scale);
    }
  }

  // a += a^T, for `a` (frames, frames).
  void add_transposed(float* a) {
    for (int64_t i = 0; i < s_.frames; i += kLanes)
      for (int64_t j = i; j < s_.frames; j += kLanes) {
        vfloat above[kLanes], below[kLanes];
        for (int64_t r = 0; r < kLanes; ++r) {
          above[r] = i + r < s_.frames ? load(a + (i + r) * ld_ + j) : vfloat{};
          below[r] = j + r < s_.frames ? load(a + (j + r) * ld_ + i) : vfloat{};
        }
        transpose(below);
        for (int64_t r = 0; r < kLanes; ++r) below[r] += above[r];
        for (int64_t r = 0; r < smaller(kLanes, s_.frames - i); ++r) store(a + (i + r) * ld_ + j, below[r]);
        transpose(below);
        for (int64_t r = 0; r < smaller(kLanes, s_.frames - j); ++r) store(a + (j + r) * ld_ + i, below[r]);
      }
  }

  const TemporalGraphConvGradient& g_;
  float *douts_, *sums_, *dscores_, *dout_units_;
  const Arena arena_;
};

// A part is the clips and joints that one thread does in order, however many threads there are.
template <class T, class Unit>
static void each_part(const TemporalGraphConv& s, const TemporalGraphConvGradient& g) {
  parallel_ranges(g.parts, [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    const FlushDenormals flush;
    Backward<T, Unit> work(s, g);
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * s.batch * s.joints / g.parts, last = (part + 1) * s.batch * s.joints / g.parts;
      for (int64_t n = first; n < last; ++n)
        work(WorkItem(s.joints, 1, n), g.dgraph + part * s.frames * s.frames, n > first);
    }
  });
}

}  // namespace

void temporal_graph_conv_forward(const TemporalGraphConv& s, void* out, float* lse) {
  with_precision(s.precision, [&](auto t, auto unit) {
    using T = decltype(t);
    each_work_item<Forward<T, decltype(unit)>>(s.batch, s.joints, 1, s, static_cast<T*>(out), lse);
  });
}

void temporal_graph_conv_backward(const TemporalGraphConv& s, const TemporalGraphConvGradient& g) {
  with_precision(s.precision, [&](auto t, auto unit) {
    each_part<decltype(t), decltype(unit)>(s, g);
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
