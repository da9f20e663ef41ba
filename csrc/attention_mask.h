// The mask of axial_attention, (batch, rows, length, length) or packed words, as the kernels take it.
#pragma once
#include "cpu/axial_attention.h"
#include "tensor.h"

namespace lifter {

inline Tensor with_contiguous_keys(const Tensor& mask) {
  return mask.stride(3) == 1 ? mask : torch::stable::contiguous(mask);
}

inline void set_mask(const Tensor& mask, AxialAttention& attention) {
  if (mask.scalar_type() == ScalarType::Bool) attention.allowed = data<bool>(mask);
  else if (mask.scalar_type() == ScalarType::Int) attention.bitmask = data<uint32_t>(mask);
  else attention.additive = data<float>(mask);
  for (int i = 0; i < 3; ++i) attention.mask_strides[i] = mask.stride(i);
}

}  // namespace lifter
