#pragma once
#include "../capability.h"

namespace lifter {

// PoseRetNet on the frames of one chunk, or of a few, of `batch` streams.
struct PoseRetNetChunk {
  int64_t batch, frames, joints, channels;  // of the keypoints
  int64_t dim, hidden, heads, depth, chunk;
  bool causal;
  bool bfloat16;  // else float32, of keypoints, weights and poses
  bool pairs;     // multiply bfloat16 as such
  float scale;    // of the spatial attention
  const void* keypoints;  // (batch, frames, joints, channels), contiguous
  const void* weights;    // of the linear layers, and
  const float* vectors;   // all other parameters, as kernels/poseretnet_chunk.py packs them
  const float* turns;     // of the frames of a chunk, see xpos.h
  const float* const* states;  // of every temporal block (batch, joints, heads, keys, keys), or null
  float* const* finals;        // the same after the last frame, or null
};

}  // namespace lifter

// poses are (batch, frames, joints, 3), contiguous, with the dtype of the keypoints.
LIFTER_KERNEL(void poseretnet_chunk_forward(const PoseRetNetChunk&, void* poses))
