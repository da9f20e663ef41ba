// The mask of axial_attention, (batch, rows, length, length) or words of a bitmask, as the kernels take it.
#pragma once
#include "cpu/axial_attention.h"
#include "glue.h"

namespace lifter {

inline void set_mask(Inputs& in, const OptionalTensor& mask_, AxialAttention& attention) {
  if (!mask_) return;
  const Tensor& mask = in.contiguous_channels(*mask_);
  if (mask.scalar_type() == ScalarType::Bool) attention.allowed = data<bool>(mask);
  else if (mask.scalar_type() == ScalarType::Int) attention.bitmask = data<uint32_t>(mask);
  else attention.additive = data<float>(mask);
  for (int i = 0; i < 3; ++i) attention.mask_strides[i] = mask.stride(i);
}

}  // namespace lifter
