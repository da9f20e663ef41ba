#pragma once
#include "../capability.h"

namespace lifter {

struct SelectiveStateUpdate {
  int64_t batch, dim, states, groups;
  int64_t heads;  // of dim / heads channels with the same dt and A
  bool constant;  // A is the same for every state of a head
  bool bfloat16;  // else float32, of x, dt, B, C, z and out
  bool softplus;
  float* state;                       // (batch, dim, states), contiguous, overwritten
  const void *x, *z;                  // (batch, dim), contiguous; z may be null
  const void* dt;                     // (batch, heads), contiguous
  const void *B, *C;                  // (batch, groups, states), contiguous
  const float *A, *D, *dt_bias;       // (heads, states), (dim), (heads); all but A may be null
  void* out;                          // (batch, dim)
};

}  // namespace lifter

LIFTER_KERNEL(void selective_state_update(const SelectiveStateUpdate&))
