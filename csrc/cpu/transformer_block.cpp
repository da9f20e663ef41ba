// A block of a transformer: attention along joints or frames if it has any, and an MLP.
#include "transformer_block.h"

#include "transformer_layers.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

template <class Unit, class Packed>
class Block : TransformerLayers<Unit, Packed> {
  using Base = TransformerLayers<Unit, Packed>;
  using typename Base::T;
  using Base::s_;
  using Base::x_;

 public:
  Block(const Transformer& s, Mixer mixer)
      : Base(s, larger(mixer == Mixer::none ? 0 : 3 * s.dim, Base::row_of(s.hidden))), mixer_(mixer) {}

  void operator()(T* out) {
    const T* x = static_cast<const T*>(s_.x);
    if (mixer_ == Mixer::none) return this->feed_forward(x, out);
    this->attend(s_.along_frames, mixer_, x, x_);
    this->feed_forward(x_, out);
  }

 private:
  const Mixer mixer_;
};

template <class Unit, class Packed, class T>
void forward(const Transformer& s, Mixer mixer, T* out) {
  for_clips(s, out, s.dim, [&](const Transformer& clips, int64_t, T* part) { Block<Unit, Packed>(clips, mixer)(part); });
}

}  // namespace

void transformer_block_forward(const Transformer& s, Mixer mixer, void* out) {
  with_packed_precision(s.precision, [&](auto unit, auto packed) {
    using Packed = decltype(packed);
    forward<decltype(unit), Packed>(s, mixer, static_cast<Dtype<Packed>*>(out));
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
