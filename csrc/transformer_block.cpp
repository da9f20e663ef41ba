// transformer_block on the CPU: mask and output around csrc/cpu/transformer_block.cpp.
#include "cpu/transformer_block.h"

#include "attention_mask.h"
#include "tensor.h"

namespace lifter {
namespace {

Tensor forward(const Tensor& x_, const Tensor& weights_, const Tensor& vectors_, const OptionalTensor& mask_, int64_t axis,
               int64_t hidden, int64_t heads, double scale, double epsilon) {
  const Tensor x = as_contiguous(x_), weights = as_contiguous(weights_), vectors = as_contiguous(vectors_);
  const Mixer mixer = axis < 0 ? Mixer::none : axis == 0 ? Mixer::joints : Mixer::frames;
  Transformer s{};
  s.batch = x.size(0), s.frames = x.size(1), s.joints = x.size(2), s.dim = x.size(3);
  if (mixer != Mixer::frames) s.batch *= s.frames, s.frames = 1;  // every frame by itself
  s.hidden = hidden, s.heads = heads, s.scale = static_cast<float>(scale), s.epsilon = static_cast<float>(epsilon);
  s.bfloat16 = is_bfloat16("transformer_block", x);
  s.pairs = s.bfloat16 && capability() == Capability::avx512_bf16;
  s.x = x.data_ptr(), s.weights = weights.data_ptr(), s.vectors = data<float>(vectors);
  STD_TORCH_CHECK(s.dim % 2 == 0, "transformer_block: x has ", s.dim, " channels, expected an even number");
  const OptionalTensor mask = mask_ ? OptionalTensor(with_contiguous_keys(*mask_)) : std::nullopt;
  if (mask) set_mask(*mask, s.along_frames);
  const Tensor out = empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, x.scalar_type());
  if (x.numel()) LIFTER_CALL(transformer_block_forward, s, mixer, out.data_ptr());
  return out;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("transformer_block", TORCH_BOX(&lifter::forward)); }
