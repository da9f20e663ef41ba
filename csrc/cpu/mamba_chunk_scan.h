#pragma once
#include "../capability.h"
#include "layout.h"

namespace lifter {

// The scan of Mamba-2. Maps have a `head` stride, of B and C from group to group, and no rows.
struct MambaChunkScan {
  int64_t batch, length, heads, width, groups, states;
  int64_t parts;  // into which the heads of a group are cut: a part is a task
  bool bfloat16;  // of the maps, else float32
  bool softplus;
  float least, largest;  // time step
  Strides x_strides, B_strides, C_strides, z_strides, out_strides;
  const void *x, *B, *C;
  const void* z;               // as x, or null
  const float* dt;             // (batch, length, heads)
  const float* A;              // (heads)
  const float* D;              // (heads, width), or null
  const float* dt_bias;        // (heads), or null
  const float* initial_states; // (batch, heads, width, states), or null for zeros
  const int32_t* seq_idx;      // (batch, length), or null
};

struct MambaChunkScanGradient {
  const void* dout;            // (batch, length, heads, width), contiguous as all that is written
  const float* dfinal_states;  // as the initial states, or null
  void *dx, *dB, *dC;
  void* dz;                     // or null
  float* ddt;                   // (batch, length, heads)
  float *dA, *ddt_bias, *dD;    // (batch, heads), (batch, heads), (batch, heads, width); the last two may be null
  float* dinitial_states;       // or null
  float *dB_parts, *dC_parts;   // room for (parts, batch, length, groups, states)
};

}  // namespace lifter

// out is (batch, length, heads, width), contiguous; final_states is as the initial states, or null.
LIFTER_KERNEL(void mamba_chunk_scan_forward(const MambaChunkScan&, void* out, float* final_states))
LIFTER_KERNEL(void mamba_chunk_scan_backward(const MambaChunkScan&, const MambaChunkScanGradient&))
