// The scans of a skeleton's walks. `plan_walks` lists the tokens in the order of every direction, `pack_rows` gathers dt, B
// and C in that order; then, as in selective_scan.cpp, a task walks over the chunks of a block of channels, for all
// directions.
#include "skeleton_scan.h"

#include <initializer_list>
#include <new>

#include "../parallel.h"
#include "arena.h"
#include "reduce.h"
#include "scan.h"
#include "tile_io.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

struct Shape {
  explicit Shape(const SkeletonScan& s)
      : length(s.frames * s.joints), width(s.rank + 2 * s.states), chunks((length + kChunk - 1) / kChunk) {}
  int64_t length, width, chunks;
};

// The order of every direction, once for all its readers: the token (frame * joints + joint) that each step stands at,
// and for every channel group and term of the gather the token that it reads, `length` if it reads nothing.
void plan_walks(const SkeletonScan& s) {
  const int64_t length = s.frames * s.joints, lists = 1 + s.groups * s.terms;
  parallel_for(s.directions, [&](int64_t k) {
    const bool joint_major = s.walks[k] & 1, reversed = s.walks[k] & 2;
    const int64_t inner = joint_major ? s.frames : s.joints;
    int32_t* tokens = s.tokens + k * lists * length;
    for (int64_t at = 0, a = 0, b = 0; at < length; ++at) {
      const int64_t frame = joint_major ? b : a, joint = joint_major ? a : b, l = reversed ? length - 1 - at : at;
      tokens[l] = static_cast<int32_t>(frame * s.joints + joint);
      for (int64_t i = 0; i < lists - 1; ++i) {
        const int32_t source = s.gather[(k * (lists - 1) + i) * s.joints + joint];
        tokens[(i + 1) * length + l] = static_cast<int32_t>(source < 0 ? length : frame * s.joints + source);
      }
      if (++b == inner) b = 0, ++a;
    }
  });
}

const int32_t* tokens(const SkeletonScan& s, int64_t k) {
  return s.tokens + k * (1 + s.groups * s.terms) * s.frames * s.joints;
}
const int32_t* sources(const SkeletonScan& s, int64_t k, int64_t group, int64_t term) {
  return tokens(s, k) + (1 + group * s.terms + term) * s.frames * s.joints;
}

// The channels are cut into blocks of kLanes that never span two channel groups.
struct Block {
  int64_t group, channel, lanes;
};

int64_t count_blocks(const SkeletonScan& s) {
  int64_t count = 0;
  for (int64_t g = 0; g < s.groups; ++g) count += (s.group_sizes[g] + kLanes - 1) / kLanes;
  return count;
}

Block find_block(const SkeletonScan& s, int64_t i) {
  int64_t channel = 0, g = 0;
  for (;; channel += s.group_sizes[g++]) {
    const int64_t here = (s.group_sizes[g] + kLanes - 1) / kLanes;
    if (i < here) break;
    i -= here;
  }
  return {g, channel + i * kLanes, smaller(kLanes, s.group_sizes[g] - i * kLanes)};
}

// dt, B and C of every step in scan order, gathered and widened: read by all channel blocks.
template <class T>
void pack_rows(const SkeletonScan& s) {
  const Shape shape(s);
  parallel_for(s.batch * s.directions * shape.chunks, [&](int64_t task) {
    const int64_t start = task % shape.chunks * kChunk, steps = smaller(kChunk, shape.length - start);
    const int64_t sequence = task / shape.chunks, b = sequence / s.directions, k = sequence % s.directions;
    float* rows = s.rows + (sequence * shape.length + start) * shape.width;
    memset(rows, 0, steps * shape.width * sizeof(float));
    for (int64_t g = 0; g < s.groups; ++g)
      for (int64_t m = 0; m < s.terms; ++m) {
        const int32_t* source = sources(s, k, g, m) + start;
        for (int64_t l = 0; l < steps; ++l) {
          if (source[l] == shape.length) continue;
          const T* p = static_cast<const T*>(s.proj) +
                       (((b * shape.length + source[l]) * s.groups + g) * s.directions + k) * shape.width;
          float* row = rows + l * shape.width;
          for (int64_t i = 0; i < shape.width; i += kLanes) {
            const int64_t n = smaller(kLanes, shape.width - i);
            store_some(row + i, load_some(row + i, n) + load_some(p + i, n), n);
          }
        }
      }
  });
}

// The block's channels of a map, widened, [token][lane], and a row of zeros for the steps that read nothing: read many
// times, and close together.
template <class T>
void load_slice(const SkeletonScan& s, const void* map, int64_t batch, Block block, float* slice) {
  const int64_t length = s.frames * s.joints;
  store(slice + length * kLanes, vfloat{});
  load_tile(static_cast<const T*>(map) + batch * length * s.channels + block.channel, 1, s.channels, block.lanes, length,
            slice);
}

// The tiles of the chunk at hand, shared by the blocks of a task.
struct Tiles {
  void lay_out(Arena& arena) {
    for (float** p : {&u, &raw, &delta, &y, &dy, &du, &ddelta}) *p = arena.take(kTile);
  }
  float *u, *raw, *delta, *y, *dy, *du, *ddelta;
};

// The parameters and the state of a block of channels in one direction, as [state][lane] and [rank][lane] tiles.
struct BlockTiles {
  void lay_out(const SkeletonScan& s, Arena& arena) {
    A = arena.take(s.states * kLanes), dt_weight = arena.take(s.rank * kLanes), h = arena.take(s.states * kLanes);
  }
  float *A, *dt_weight, *h;
};

template <class T>
struct BlockScan : Tiles, BlockTiles {
  const SkeletonScan& s;
  Shape shape;
  int64_t batch, k;
  Block block;
  vfloat D, bias;
  Range range_A;

  BlockScan(const SkeletonScan& scan, int64_t batch, int64_t k, Block block, const Tiles& tiles, const BlockTiles& own)
      : Tiles(tiles), BlockTiles(own), s(scan), shape(scan), batch(batch), k(k), block(block) {
    load_tile(s.A + parameter() * s.states, s.states, 1, block.lanes, s.states, A);
    for (int64_t n = 0; n < s.states; ++n) range_A.add(load(A + n * kLanes));
    load_tile(s.dt_weight + parameter() * s.rank, s.rank, 1, block.lanes, s.rank, dt_weight);
    D = load_some(s.D + parameter(), block.lanes);
    bias = load_some(s.dt_bias + parameter(), block.lanes);
    memset(h, 0, s.states * kLanes * sizeof(float));
  }

  int64_t parameter() const { return k * s.channels + block.channel; }
  float* saved(float* states, int64_t chunk) const {
    return states + (((batch * s.directions + k) * shape.chunks + chunk) * s.states) * s.channels + block.channel;
  }
  const float* rows(int64_t start) const {
    return s.rows + ((batch * s.directions + k) * shape.length + start) * shape.width;
  }

  // u gathered from the block's slice of the map, delta = softplus(dt_proj(dt) + bias), y starts as D u.
  Chunk load_chunk(const float* slice, int64_t start, int64_t steps) {
    for (int64_t m = 0; m < s.terms; ++m) {
      const int32_t* source = sources(s, k, block.group, m) + start;
      for (int64_t l = 0; l < steps; ++l) {
        const vfloat x = load(slice + source[l] * kLanes);
        store(u + l * kLanes, m ? load(u + l * kLanes) + x : x);
      }
    }
    const float* row = rows(start);
    Range range;
    for (int64_t l = 0; l < steps; ++l) {
      vfloat dt = bias;
      for (int64_t r = 0; r < s.rank; ++r) dt += row[l * shape.width + r] * load(dt_weight + r * kLanes);
      const vfloat d = softplus(dt);
      range.add(d);
      store(raw + l * kLanes, dt);
      store(delta + l * kLanes, d);
      store(y + l * kLanes, D * load(u + l * kLanes));
    }
    const char* next = reinterpret_cast<const char*>(row + kChunk * shape.width);
    return {steps,
            s.states,
            u,
            delta,
            A,
            {row + s.rank, shape.width, true},
            {row + s.rank + s.states, shape.width, true},
            exponent_for(range, range_A),
            {{next, next + 64, next + 128}, shape.width * int64_t(sizeof(float)), 0}};
  }
};

template <class T>
void forward(const SkeletonScan& s, void* out, float* states) {
  plan_walks(s);
  pack_rows<T>(s);
  const Shape shape(s);
  const int64_t blocks = count_blocks(s);
  parallel_for(s.batch * blocks, [&](int64_t task) {
    const FlushDenormals flush;
    Tiles tiles;
    BlockTiles own;
    float *slice, *sums;  // the sums are over the directions, [frame][joint][lane]
    const Arena arena([&](Arena& arena) {
      tiles.lay_out(arena), own.lay_out(s, arena);
      slice = arena.take((shape.length + 1) * kLanes), sums = arena.take(shape.length * kLanes);
    });
    const Block block = find_block(s, task % blocks);
    load_slice<T>(s, s.x, task / blocks, block, slice);
    memset(sums, 0, shape.length * kLanes * sizeof(float));
    for (int64_t k = 0; k < s.directions; ++k) {
      BlockScan<T> scan(s, task / blocks, k, block, tiles, own);
      for (int64_t start = 0; start < shape.length; start += kChunk) {
        const int64_t steps = smaller(kChunk, shape.length - start);
        if (states) store_tile(scan.h, 1, s.channels, block.lanes, s.states, scan.saved(states, start / kChunk));
        scan_chunk(scan.load_chunk(slice, start, steps), scan.h, scan.y);
        const int32_t* token = tokens(s, k) + start;
        for (int64_t l = 0; l < steps; ++l) {
          float* sum = sums + token[l] * kLanes;
          store(sum, load(sum) + load(scan.y + l * kLanes));
        }
      }
    }
    T* map = static_cast<T*>(out) + task / blocks * shape.length * s.channels + block.channel;
    store_tile(sums, 1, s.channels, block.lanes, shape.length, map);
  });
}

// The tiles of a block in the backward: its gradients stay here from chunk to chunk.
struct BlockGradientTiles : BlockTiles {
  void lay_out(const SkeletonScan& s, Arena& arena) {
    BlockTiles::lay_out(s, arena);
    dh = arena.take(s.states * kLanes), dA = arena.take(s.states * kLanes);
    ddt_weight = arena.take(s.rank * kLanes), chunk_dw = arena.take(s.rank * kLanes);
  }
  float *dh, *dA, *ddt_weight, *chunk_dw;
};

template <class T>
struct BlockScanBackward : BlockScan<T> {
  float *dh, *dA, *ddt_weight, *chunk_dw;
  vfloat dD = {}, dbias = {};

  BlockScanBackward(const SkeletonScan& s, int64_t batch, int64_t k, Block block, const Tiles& tiles,
                    const BlockGradientTiles& own)
      : BlockScan<T>(s, batch, k, block, tiles, own), dh(own.dh), dA(own.dA), ddt_weight(own.ddt_weight),
        chunk_dw(own.chunk_dw) {
    memset(dh, 0, s.states * kLanes * sizeof(float));
    memset(dA, 0, s.states * kLanes * sizeof(float));
    memset(ddt_weight, 0, s.rank * kLanes * sizeof(float));
  }

  // x, dout, dx: the block's slices of the maps; dx is added to, and drows, [step][rank + 2 * states][lane].
  void chunk(const SkeletonScanGradient& g, int64_t start, int64_t steps, const float* x, const float* dout, float* dx,
             float* drows, float* history) {
    const SkeletonScan& s = this->s;
    const int64_t width = this->shape.width * kLanes;
    float *const dy = this->dy, *const du = this->du, *const ddelta = this->ddelta;
    const Chunk c = this->load_chunk(x, start, steps);
    load_tile(this->saved(const_cast<float*>(g.states), start / kChunk), 1, s.channels, this->block.lanes, s.states,
              this->h);
    const int32_t* token = tokens(s, this->k) + start;
    vfloat chunk_dD = {}, chunk_dbias = {};  // sums of sums: long clips lose fewer digits
    memset(chunk_dw, 0, s.rank * kLanes * sizeof(float));
    for (int64_t l = 0; l < steps; ++l) {
      const vfloat d = load(dout + token[l] * kLanes);
      store(dy + l * kLanes, d);
      store(du + l * kLanes, this->D * d);
      chunk_dD += d * load(this->u + l * kLanes);
    }
    dD += chunk_dD;
    memset(ddelta, 0, steps * kLanes * sizeof(float));
    scan_chunk_backward(c, {dy, this->h, dh, du, ddelta, dA, drows + s.rank * kLanes,
                            drows + (s.rank + s.states) * kLanes, width, nullptr, history});
    const float* row = this->rows(start);
    for (int64_t l = 0; l < steps; ++l) {
      const vfloat draw = load(ddelta + l * kLanes) * sigmoid(load(this->raw + l * kLanes));
      chunk_dbias += draw;
      for (int64_t r = 0; r < s.rank; ++r) {
        float *ddt = drows + l * width + r * kLanes, *dw = chunk_dw + r * kLanes;
        store(ddt, load(ddt) + draw * load(this->dt_weight + r * kLanes));
        store(dw, load(dw) + draw * row[l * this->shape.width + r]);
      }
    }
    for (int64_t m = 0; m < s.terms; ++m) {
      const int32_t* source = sources(s, this->k, this->block.group, m) + start;
      for (int64_t l = 0; l < steps; ++l) {
        float* p = dx + source[l] * kLanes;
        store(p, load(p) + load(du + l * kLanes));
      }
    }
    dbias += chunk_dbias;
    for (int64_t r = 0; r < s.rank; ++r)
      store(ddt_weight + r * kLanes, load(ddt_weight + r * kLanes) + load(chunk_dw + r * kLanes));
  }

  void finish(const SkeletonScanGradient& g) const {
    const SkeletonScan& s = this->s;
    const int64_t row = this->batch * s.directions * s.channels + this->parameter(), lanes = this->block.lanes;
    store_tile(dA, s.states, 1, lanes, s.states, g.dA + row * s.states);
    store_tile(ddt_weight, s.rank, 1, lanes, s.rank, g.ddt_weight + row * s.rank);
    store_some(g.dD + row, dD, lanes);
    store_some(g.ddt_bias + row, dbias, lanes);
  }
};

template <class T>
void backward_blocks(const SkeletonScan& s, const SkeletonScanGradient& g) {
  const Shape shape(s);
  const int64_t blocks = count_blocks(s);
  parallel_for(g.splits * s.batch, [&](int64_t task) {
    const FlushDenormals flush;
    const int64_t batch = task % s.batch, split = task / s.batch;
    const int64_t first = blocks * split / g.splits, count = blocks * (split + 1) / g.splits - first;
    const int64_t width = shape.width * kLanes;
    const int64_t slice = (shape.length + 1) * kLanes;  // the row past the end takes what nothing reads
    Tiles tiles;
    BlockGradientTiles own;
    const int64_t own_size = Arena::measure([&](Arena& arena) { own.lay_out(s, arena); });
    float *x, *dout, *dx, *lanes, *history, *owned;
    BlockScanBackward<T>* scans;
    const Arena arena([&](Arena& arena) {
      tiles.lay_out(arena);
      x = arena.take(count * slice), dout = arena.take(count * slice), dx = arena.take(count * slice);
      lanes = arena.take(kChunk * width), history = arena.take(2 * kBackwardStates * kTile);
      owned = arena.take(own_size * count), scans = arena.take<BlockScanBackward<T>>(count);
    });
    memset(dx, 0, count * slice * sizeof(float));
    for (int64_t i = 0; i < count; ++i) {
      load_slice<T>(s, s.x, batch, find_block(s, first + i), x + i * slice);
      load_slice<T>(s, g.dout, batch, find_block(s, first + i), dout + i * slice);
    }

    for (int64_t k = 0; k < s.directions; ++k) {
      for (int64_t i = 0; i < count; ++i) {
        Arena part(owned + i * own_size, own_size);
        own.lay_out(s, part);
        new (scans + i) BlockScanBackward<T>(s, batch, k, find_block(s, first + i), tiles, own);
      }
      for (int64_t start = (shape.length - 1) / kChunk * kChunk; start >= 0; start -= kChunk) {
        const int64_t steps = smaller(kChunk, shape.length - start);
        memset(lanes, 0, steps * width * sizeof(float));
        for (int64_t i = 0; i < count; ++i)
          scans[i].chunk(g, start, steps, x + i * slice, dout + i * slice, dx + i * slice, lanes, history);
        float* rows = g.drows + ((task * s.directions + k) * shape.length + start) * shape.width;
        sum_over_lanes(lanes, steps * shape.width, rows);
      }
      for (int64_t i = 0; i < count; ++i) scans[i].finish(g);
    }
    for (int64_t i = 0; i < count; ++i) {
      const Block block = find_block(s, first + i);
      T* map = static_cast<T*>(g.dx) + batch * shape.length * s.channels + block.channel;
      store_tile(dx + i * slice, 1, s.channels, block.lanes, shape.length, map);
    }
  });
}

// drows, summed over the splits, back to the tokens that were gathered: one task owns one frame.
template <class T>
void scatter_rows(const SkeletonScan& s, const SkeletonScanGradient& g) {
  const Shape shape(s);
  const int64_t part = s.batch * s.directions * shape.length * shape.width;
  parallel_for(s.batch * s.frames, [&](int64_t task) {
    const int64_t batch = task / s.frames, frame = task % s.frames, frame_size = s.joints * shape.width;
    float *sums, *row;
    const Arena arena([&](Arena& arena) { sums = arena.take(frame_size), row = arena.take(shape.width); });
    for (int64_t group = 0; group < s.groups; ++group)
      for (int64_t k = 0; k < s.directions; ++k) {
        memset(sums, 0, frame_size * sizeof(float));
        for (int64_t v = 0; v < s.joints; ++v) {
          int64_t l = s.walks[k] & 1 ? v * s.frames + frame : frame * s.joints + v;
          if (s.walks[k] & 2) l = shape.length - 1 - l;
          const float* p = g.drows + ((batch * s.directions + k) * shape.length + l) * shape.width;
          for (int64_t i = 0; i < shape.width; ++i) {
            row[i] = p[i];
            for (int64_t split = 1; split < g.splits; ++split) row[i] += p[split * part + i];
          }
          for (int64_t m = 0; m < s.terms; ++m) {
            const int64_t source = sources(s, k, group, m)[l];
            if (source == shape.length) continue;
            float* sum = sums + (source - frame * s.joints) * shape.width;
            for (int64_t i = 0; i < shape.width; ++i) sum[i] += row[i];
          }
        }
        for (int64_t j = 0; j < s.joints; ++j) {
          T* p = static_cast<T*>(g.dproj) +
                 (((task * s.joints + j) * s.groups + group) * s.directions + k) * shape.width;
          for (int64_t i = 0; i < shape.width; ++i) store1(p + i, sums[j * shape.width + i]);
        }
      }
  });
}

template <class T>
void backward(const SkeletonScan& s, const SkeletonScanGradient& g) {
  plan_walks(s);
  pack_rows<T>(s);
  backward_blocks<T>(s, g);
  scatter_rows<T>(s, g);
}

}  // namespace

void skeleton_scan_forward(const SkeletonScan& s, void* out, float* states) {
  s.bfloat16 ? forward<bfloat16>(s, out, states) : forward<float>(s, out, states);
}

void skeleton_scan_backward(const SkeletonScan& s, const SkeletonScanGradient& g) {
  s.bfloat16 ? backward<bfloat16>(s, g) : backward<float>(s, g);
}

void skeleton_scan_blocks(const SkeletonScan& s, int64_t* count) { *count = count_blocks(s); }

}  // namespace lifter::LIFTER_CAPABILITY
