#pragma once
#include "../capability.h"

namespace lifter {

// Elements from one to the next of a map (batch, dim, length), or of B and C with groups of states as channels. What is
// fast: contiguous steps, or contiguous channels.
struct MapStrides {
  int64_t batch, channel, step;
};

struct SelectiveScan {
  int64_t batch, dim, length, states, groups;
  bool bfloat16;  // else float32, of u, delta, z, out and of B, C where they vary
  bool softplus;
  bool constant_B, constant_C;  // (dim, states) float32, else (batch, groups, states, length)
  const void *u, *delta, *z;    // (batch, dim, length); z may be null
  MapStrides u_strides, delta_strides, z_strides;
  const void *B, *C;            // contiguous if constant
  MapStrides B_strides, C_strides;
  int64_t B_group, C_group;
  const float *A, *D, *delta_bias, *initial_state;  // contiguous; all but A may be null
  float* rows;                  // workspace: (batch, groups, length, 2 * states), B then C of a step side by side
};

struct SelectiveScanOutput {
  void* out;          // (batch, dim, length)
  MapStrides out_strides;
  float* last_state;  // (batch, dim, states)
  float* states;      // (batch, chunks, states, dim), the state before every chunk, or null
};

// Gradients; those of absent inputs are null. The partial sums are over the batch (dA, dD, ddelta_bias and constant B, C)
// or over `splits` shares of a group's channels (B, C), and are added in that order by `sum_partials`
// (sum_partials.h) and `sum_partial_rows`.
struct SelectiveScanGradient {
  const void* dout;             // (batch, dim, length)
  MapStrides dout_strides;
  const float* dlast_state;     // or null
  const float* states;
  int64_t splits;
  void *du, *ddelta, *dz;
  MapStrides du_strides, ddelta_strides, dz_strides;
  float *dA, *dD, *ddelta_bias;  // (batch, dim, states), (batch, dim), (batch, dim)
  float *dB, *dC;                // constant: (batch, dim, states); else (splits, batch, groups, length, states)
  float* dinitial_state;         // (batch, dim, states) or null
};

}  // namespace lifter

LIFTER_KERNEL(void selective_scan_forward(const SelectiveScan&, const SelectiveScanOutput&))
LIFTER_KERNEL(void selective_scan_backward(const SelectiveScan&, const SelectiveScanGradient&))
// The gradient of B or C as the sum of its parts: partial is (parts, sequences, length, states), out (sequences, states,
// length).
LIFTER_KERNEL(void sum_partial_rows(const float* partial, int64_t parts, int64_t sequences, int64_t length,
                                    int64_t states, bool bfloat16, void* out))
