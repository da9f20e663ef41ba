// Transformer blocks that mix joints and frames in turn, layer after layer, each shared by all threads.
#include "alternating_transformer.h"

#include "retention.h"
#include "transformer_layers.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

constexpr int64_t kPose = 3;       // coordinates of a joint
constexpr float kEpsilon = 1e-5f;  // of the norms in retention and head

template <class Unit, class Packed>
class Network : TransformerLayers<Unit, Packed> {
  using Base = TransformerLayers<Unit, Packed>;
  using typename Base::Element;
  using typename Base::T;
  using Base::x_;
  using Base::mixed_;
  using Base::input_;
  using Base::projections_;
  using Base::parameters_;

 public:
  // `first` is the element of the states that the first clip's begin with.
  Network(const AlternatingTransformer& s, int64_t first, T* poses)
      : Base(s, larger((s.retains ? 4 : 3) * s.dim, Base::row_of(s.hidden))), s_(s), first_(first), poses_(poses) {}

  void operator()() {
    const T* x = static_cast<const T*>(s_.x);
    this->each_row([&](int64_t i) {
      for (int64_t c = i * s_.dim, end = c + s_.dim; c < end; c += kLanes)
        store_some(x_ + c, load_some(x + c, end - c), end - c);
    });
    const Norm spatial_norm = parameters_.norm(s_.dim), temporal_norm = parameters_.norm(s_.dim);
    for (int64_t i = 0; i < s_.depth; ++i) {
      this->attend(AxialAttention{}, Mixer::joints, x_, x_);
      this->feed_forward(x_, x_);
      this->normalize_rows(spatial_norm, s_.epsilon, x_, x_);
      if (i == 0) add_positions(parameters_.vector(s_.positions * s_.dim));
      if (s_.retains) retain(i);
      else this->attend(s_.along_frames, Mixer::frames, x_, x_);
      this->feed_forward(x_, x_);
      this->normalize_rows(temporal_norm, s_.epsilon, x_, x_);
    }
    this->normalize_rows(parameters_.norm(s_.dim), kEpsilon, x_, input_);
    this->linear(parameters_.linear(s_.dim, kPose), input_, [&](int64_t i, int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
      store_some(poses_ + i * kPose + j, v, left);
    });
  }

 private:
  void add_positions(const float* positions) const {
    if (s_.positions)
      this->each_row([&](int64_t i) {
        const float* position = positions + i / s_.joints % s_.frames * s_.dim;
        for (int64_t c = 0; c < s_.dim; c += kLanes)
          store_some(x_ + i * s_.dim + c, load_some(x_ + i * s_.dim + c, s_.dim - c) + load_some(position + c, s_.dim - c),
                     s_.dim - c);
      });
  }

  // Retention along the frames of a joint, its norm and its gate.
  void retain(int64_t layer) {
    this->normalize_rows(parameters_.norm(s_.dim), s_.epsilon, x_, input_);
    this->linear(parameters_.linear(s_.dim, 4 * s_.dim, false), input_, this->store_to(projections_, 4 * s_.dim));
    Retention r{};
    r.batch = s_.batch, r.frames = s_.frames, r.joints = s_.joints, r.heads = s_.heads, r.chunk = s_.chunk;
    r.keys = r.values = s_.dim / s_.heads;
    r.causal = s_.causal, r.precision = Base::kPrecision, r.scale = 1;
    r.q_strides = r.k_strides = r.v_strides = this->strides(4 * s_.dim, false), r.out_strides = this->strides(s_.dim, false);
    r.q = projections_, r.k = projections_ + s_.dim, r.v = projections_ + 2 * s_.dim;
    r.decay = parameters_.vector(s_.joints * s_.heads);
    r.state = s_.states ? s_.states[layer] + first_ : nullptr;
    r.rotary = s_.rotary, r.rotary_row = s_.rotary_row;
    retention_forward(r, mixed_, s_.finals ? s_.finals[layer] + first_ : nullptr);

    const Norm norm = parameters_.norm(s_.dim);
    this->each_row([&](int64_t i) {
      const Element* gates = projections_ + i * 4 * s_.dim + 3 * s_.dim;
      for (int64_t c = 0; c < s_.dim; c += r.values) {
        Element* head = mixed_ + i * s_.dim + c;
        const Norm norm_of_head{norm.weight + c, norm.bias + c};
        normalize(head, r.values, norm_of_head, kEpsilon, [&](int64_t j, vfloat v, int64_t left) LIFTER_LAMBDA {
          const vfloat gate = load_some(gates + c + j, left);
          store_rounded(head + j, v * gate * sigmoid(gate), left);
        });
      }
    });
    this->linear(parameters_.linear(s_.dim, s_.dim, false), mixed_, this->add_to(x_, x_));
  }

  const AlternatingTransformer& s_;
  const int64_t first_;
  T* poses_;
};

template <class Unit, class Packed, class T>
void forward(const AlternatingTransformer& s, T* poses) {
  const int64_t state = s.joints * s.dim * (s.dim / s.heads);
  for_clips(s, poses, kPose, [&](const AlternatingTransformer& clips, int64_t first, T* out) {
    Network<Unit, Packed>(clips, first * state, out)();
  });
}

}  // namespace

void alternating_transformer_forward(const AlternatingTransformer& s, void* poses) {
  with_packed_precision(s.precision, [&](auto unit, auto packed) {
    using Packed = decltype(packed);
    forward<decltype(unit), Packed>(s, static_cast<Dtype<Packed>*>(poses));
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
