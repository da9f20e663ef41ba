// transformer_block on the CPU: mask and output around csrc/cpu/transformer_block.cpp.
#include "cpu/transformer_block.h"

#include "attention_mask.h"
#include "glue.h"

namespace lifter {
namespace {

Tensor forward(const Tensor& x_, const Tensor& weights, const Tensor& vectors, const OptionalTensor& mask, int64_t axis,
               int64_t hidden, int64_t heads, double scale, double epsilon) {
  Inputs in;
  const Tensor& x = in.contiguous(x_);
  const Mixer mixer = axis < 0 ? Mixer::none : axis == 0 ? Mixer::joints : Mixer::frames;
  Transformer s{};
  s.batch = x.size(0), s.frames = x.size(1), s.joints = x.size(2), s.dim = x.size(3);
  if (mixer != Mixer::frames) s.batch *= s.frames, s.frames = 1;  // every frame by itself
  s.hidden = hidden, s.heads = heads, s.scale = static_cast<float>(scale), s.epsilon = static_cast<float>(epsilon);
  s.precision = precision_of("transformer_block", x);
  s.x = x.data_ptr(), s.weights = in.contiguous(weights).data_ptr(), s.vectors = in.data<float>(vectors);
  STD_TORCH_CHECK(s.dim % 2 == 0, "transformer_block: x has ", s.dim, " channels, expected an even number");
  set_mask(in, mask, s.along_frames);
  const Tensor out = contiguous_like(x);
  if (x.numel()) LIFTER_CALL(transformer_block_forward, s, mixer, out.data_ptr());
  return out;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("transformer_block", TORCH_BOX(&lifter::forward)); }
