#pragma once
#include "../capability.h"

namespace lifter {

struct DeformConv2d {
  int64_t batch, height, width, channels, out_height, out_width;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  int64_t groups;  // of channels that share their offsets
  bool bfloat16;   // else float32, of input, output and their gradients
  const void* input;         // (batch, height, width, channels)
  int64_t input_strides[3];  // channels are dense
  float* widened;            // workspace: a contiguous float32 copy of a bfloat16 input, which every tap reads again
  const float* offset;       // (batch, groups * kernel taps * 2, out_height, out_width)
  int64_t offset_strides[4];
  const float* mask;  // (batch, groups * kernel taps, out_height, out_width), or null
  int64_t mask_strides[4];
  const float* weight;  // (taps, channels): depthwise. Null: the output is the sampled columns
  const float* bias;    // (channels), or null
};

// The output is (batch, out_height, out_width, channels), or (.., taps, channels) columns, contiguous.
struct DeformConv2dGradient {
  const void* dout;
  void* dinput;            // (batch, height, width, channels), contiguous
  float* dinput_sum;       // the same in float32: a workspace for bfloat16, else dinput itself
  float *doffset, *dmask;  // dmask is null without a mask
  int64_t doffset_strides[4], dmask_strides[4];
  float *dweight, *dbias;  // (taps, channels), (channels); null without a weight
  float* partials;         // workspace: (deform_conv2d_shares, taps + 1, channels), the bias last
};

// Shares of the output pixels whose dweight is summed apart. It follows from the shapes alone: so do the results.
static inline int64_t deform_conv2d_shares(const DeformConv2d& s) {
  const int64_t rows = s.batch * s.out_height;
  return rows < 64 ? rows : 64;
}

}  // namespace lifter

LIFTER_KERNEL(void deform_conv2d_forward(const DeformConv2d&, void* out))
LIFTER_KERNEL(void deform_conv2d_backward(const DeformConv2d&, const DeformConv2dGradient&))
