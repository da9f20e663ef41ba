// mixsynth_encoder on the CPU: strides and output around csrc/cpu/mixsynth_encoder.cpp.
#include "cpu/mixsynth_encoder.h"

#include "glue.h"

namespace lifter {
namespace {

Tensor forward(const Tensor& x_, const Tensor& weights, int64_t frames, int64_t dim, int64_t hidden, int64_t depth,
               int64_t r_t, int64_t r_s, bool interpolates) {
  Inputs in;
  const Tensor& x = in.contiguous_channels(x_);
  MixSynthEncoder s{};
  s.windows = x.size(0), s.frames = frames, s.poses = x.size(2), s.dim = dim, s.hidden = hidden, s.depth = depth;
  s.channel_keys = dim / r_s, s.token_keys = frames / r_t;
  s.keyframes = interpolates ? x.size(1) : 0;
  s.bfloat16 = is_bfloat16("mixsynth_encoder", x);
  s.x = x.data_ptr(), s.window_stride = x.stride(0), s.row_stride = x.stride(1);
  s.weights = in.data<float>(weights);
  s.threads = torch::stable::get_num_threads();
  const Tensor out = empty(x, {s.windows, frames, s.poses}, x.scalar_type());
  LIFTER_CALL(mixsynth_encoder_forward, s, out.data_ptr());
  return out;
}

}  // namespace
}  // namespace lifter

STABLE_TORCH_LIBRARY_IMPL(lifter, CPU, m) { m.impl("mixsynth_encoder", TORCH_BOX(&lifter::forward)); }
