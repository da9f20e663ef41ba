// The selective scan along the steps of a sequence. First B and C of every step are laid side by side (`pack_rows`). Then a
// task takes a block of kLanes channels, one to a lane, and walks over its steps in chunks of kChunk: u and delta are
// transposed into [step][lane] tiles (`load_chunk`, tile_io.h), the recurrence runs over the tile (`scan_chunk`, scan.h), and
// what it adds to D u is gated by z and transposed back. Backward, a task has several blocks of a group, which share its sums
// for dB and dC, and walks from the last chunk to the first; each begins from the state that forward has saved before it.
#include "selective_scan.h"

#include <initializer_list>
#include <new>

#include "../parallel.h"
#include "arena.h"
#include "reduce.h"
#include "scan.h"
#include "tile_io.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

// The channels of a group are cut into blocks of kLanes; one block never spans two groups.
struct Block {
  int64_t batch, group, channel, lanes;
};

struct Blocks {
  explicit Blocks(const SelectiveScan& s)
      : per_group((s.dim / s.groups + kLanes - 1) / kLanes), group_dim(s.dim / s.groups), groups(s.groups) {}
  Block at(int64_t batch, int64_t group, int64_t i) const {
    return {batch, group, group * group_dim + i * kLanes, smaller(kLanes, group_dim - i * kLanes)};
  }
  int64_t per_group, group_dim, groups;
};

// B and C of a step side by side and widened, [length][2 * states], read by all blocks of the group.
template <class T>
void pack_rows(const SelectiveScan& s) {
  const int64_t chunks = (s.length + kChunk - 1) / kChunk;
  parallel_for(s.batch * s.groups * chunks, [&](int64_t task) {
    const int64_t sequence = task / chunks, start = task % chunks * kChunk, steps = smaller(kChunk, s.length - start);
    alignas(64) float tile[kTile];
    for (int part = 0; part < 2; ++part) {
      if (part ? s.constant_C : s.constant_B) continue;
      const MapStrides& strides = part ? s.C_strides : s.B_strides;
      const T* source = static_cast<const T*>(part ? s.C : s.B) + sequence / s.groups * strides.batch +
                        sequence % s.groups * (part ? s.C_group : s.B_group) + start * strides.step;
      for (int64_t n = 0; n < s.states; n += kLanes) {
        const int64_t lanes = smaller(kLanes, s.states - n);
        load_tile(source + n * strides.channel, strides.channel, strides.step, lanes, steps, tile);
        float* rows = s.rows + (sequence * s.length + start) * 2 * s.states + part * s.states + n;
        store_tile(tile, 1, 2 * s.states, lanes, steps, rows);
      }
    }
  });
}

// The tiles of the chunk at hand, shared by the blocks of a task.
struct Tiles {
  void lay_out(Arena& arena) {
    for (float** p : {&u, &delta, &y, &gate, &dy, &du, &ddelta, &raw}) *p = arena.take(kTile);
  }
  float *u, *delta, *y, *gate, *dy, *du, *ddelta, *raw;
};

// The parameters and the state of a block of channels, as [state][lane] tiles.
struct BlockTiles {
  void lay_out(const SelectiveScan& s, Arena& arena) {
    for (float** p : {&A, &B, &C, &h}) *p = arena.take(s.states * kLanes);
  }
  float *A, *B, *C, *h;
};

template <class T>
struct BlockScan : Tiles, BlockTiles {
  const SelectiveScan& s;
  Block block;
  vfloat D, bias;
  Range range_A;

  BlockScan(const SelectiveScan& scan, Block b, const Tiles& tiles, const BlockTiles& own)
      : Tiles(tiles), BlockTiles(own), s(scan), block(b) {
    load_states(s.A, A);
    for (int64_t n = 0; n < s.states; ++n) range_A.add(load(A + n * kLanes));
    if (s.constant_B) load_states(static_cast<const float*>(s.B), B);
    if (s.constant_C) load_states(static_cast<const float*>(s.C), C);
    D = s.D ? load_some(s.D + b.channel, b.lanes) : vfloat{};
    bias = s.delta_bias ? load_some(s.delta_bias + b.channel, b.lanes) : vfloat{};
    if (s.initial_state)
      load_states(s.initial_state + b.batch * s.dim * s.states, h);
    else
      memset(h, 0, s.states * kLanes * sizeof(float));
  }

  // A (dim, states) parameter of this block's channels <-> [state][lane].
  void load_states(const float* p, float* tile) const {
    load_tile(p + block.channel * s.states, s.states, 1, block.lanes, s.states, tile);
  }
  void store_states(const float* tile, float* p) const {
    store_tile(tile, s.states, 1, block.lanes, s.states, p + (block.batch * s.dim + block.channel) * s.states);
  }
  int64_t offset(const MapStrides& m, int64_t start) const {
    return block.batch * m.batch + block.channel * m.channel + start * m.step;
  }
  void load_steps(const void* p, const MapStrides& m, int64_t start, int64_t steps, float* tile) const {
    load_tile(static_cast<const T*>(p) + offset(m, start), m.channel, m.step, block.lanes, steps, tile);
  }
  void store_steps(const float* tile, int64_t start, int64_t steps, void* p, const MapStrides& m) const {
    store_tile(tile, m.channel, m.step, block.lanes, steps, static_cast<T*>(p) + offset(m, start));
  }

  // Loads u and delta of a chunk; delta becomes softplus(delta + bias), and y starts as D u.
  Chunk load_chunk(int64_t start, int64_t steps) {
    load_steps(s.u, s.u_strides, start, steps, u);
    load_steps(s.delta, s.delta_strides, start, steps, delta);
    Range range;
    for (int64_t l = 0; l < steps; ++l) {
      const vfloat raw = load(delta + l * kLanes) + bias, d = s.softplus ? softplus(raw) : raw;
      range.add(d);
      store(delta + l * kLanes, d);
      store(y + l * kLanes, D * load(u + l * kLanes));
    }
    const float* rows = s.rows + ((block.batch * s.groups + block.group) * s.length + start) * 2 * s.states;
    const Coefficients cb = s.constant_B ? Coefficients{B, 0, false} : Coefficients{rows, 2 * s.states, true};
    const Coefficients cc = s.constant_C ? Coefficients{C, 0, false} : Coefficients{rows + s.states, 2 * s.states, true};
    return {steps, s.states, u, delta, A, cb, cc, exponent_for(range, range_A), {}};
  }

  float* saved(float* states, int64_t chunk, int64_t chunks) const {
    return states + (block.batch * chunks + chunk) * s.states * s.dim + block.channel;
  }
};

template <class T>
void forward(const SelectiveScan& s, const SelectiveScanOutput& o) {
  pack_rows<T>(s);
  const Blocks blocks(s);
  const int64_t chunks = (s.length + kChunk - 1) / kChunk;
  bool steps_together = true;  // else the tiles ask for what they need next
  for (const MapStrides* m : {&s.u_strides, &s.delta_strides, &o.out_strides})
    steps_together &= m->step == 1 && m->channel == s.length;
  parallel_for(s.batch * s.groups * blocks.per_group, [&](int64_t task) {
    const FlushDenormals flush;
    Tiles tiles;
    BlockTiles own;
    const Arena arena([&](Arena& arena) { tiles.lay_out(arena), own.lay_out(s, arena); });
    const int64_t sequence = task / blocks.per_group;
    BlockScan<T> scan(s, blocks.at(sequence / s.groups, sequence % s.groups, task % blocks.per_group), tiles, own);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t start = chunk * kChunk, steps = smaller(kChunk, s.length - start);
      if (o.states) store_tile(scan.h, 1, s.dim, scan.block.lanes, s.states, scan.saved(o.states, chunk, chunks));
      Chunk c = scan.load_chunk(start, steps);
      if (steps_together && scan.block.lanes == kLanes && start + 2 * kChunk <= s.length) {
        const auto at = [&](const void* p, const MapStrides& m, int64_t step) {
          return static_cast<const char*>(p) + scan.offset(m, step) * int64_t(sizeof(T));
        };
        c.prefetch = {{at(s.u, s.u_strides, start + kChunk), at(s.delta, s.delta_strides, start + kChunk),
                    at(o.out, o.out_strides, start)},
                   s.length * int64_t(sizeof(T)), sizeof(T) == 4 ? 2 : 1};
      }
      scan_chunk(c, scan.h, scan.y);
      if (s.z) {
        scan.load_steps(s.z, s.z_strides, start, steps, scan.gate);
        for (int64_t l = 0; l < steps; ++l) {
          const vfloat z = load(scan.gate + l * kLanes);
          store(scan.y + l * kLanes, load(scan.y + l * kLanes) * z * sigmoid(z));
        }
      }
      scan.store_steps(scan.y, start, steps, o.out, o.out_strides);
    }
    scan.store_states(scan.h, o.last_state);
  });
}

// The tiles of a block in the backward: its gradients stay here from chunk to chunk.
struct BlockGradientTiles : BlockTiles {
  void lay_out(const SelectiveScan& s, Arena& arena) {
    BlockTiles::lay_out(s, arena);
    for (float** p : {&dh, &dA, &dB_own, &dC_own}) *p = arena.take(s.states * kLanes);
  }
  float *dh, *dA, *dB_own, *dC_own;
};

template <class T>
struct BlockScanBackward : BlockScan<T> {
  float *dh, *dA, *dB_own, *dC_own;
  vfloat dD = {}, dbias = {};

  BlockScanBackward(const SelectiveScan& s, const SelectiveScanGradient& g, Block b, const Tiles& tiles,
                    const BlockGradientTiles& own)
      : BlockScan<T>(s, b, tiles, own), dh(own.dh), dA(own.dA), dB_own(own.dB_own), dC_own(own.dC_own) {
    for (float* p : {dh, dA, dB_own, dC_own}) memset(p, 0, s.states * kLanes * sizeof(float));
    if (g.dlast_state) this->load_states(g.dlast_state + b.batch * s.dim * s.states, dh);
  }

  // dB, dC: [step][state][lane], added to; where B or C is constant, room for one [state][lane].
  void chunk(const SelectiveScanGradient& g, int64_t start, int64_t steps, float* dB, float* dC, float* history) {
    const SelectiveScan& s = this->s;
    float *const dy = this->dy, *const du = this->du, *const ddelta = this->ddelta, *const raw = this->raw;
    const int64_t chunks = (s.length + kChunk - 1) / kChunk;
    const Chunk c = this->load_chunk(start, steps);
    load_tile(this->saved(const_cast<float*>(g.states), start / kChunk, chunks), 1, s.dim, this->block.lanes, s.states,
              this->h);
    this->load_steps(g.dout, g.dout_strides, start, steps, dy);
    if (s.z) {
      this->load_steps(s.z, s.z_strides, start, steps, this->gate);
      memcpy(raw, dy, steps * kLanes * sizeof(float));
      for (int64_t l = 0; l < steps; ++l) {
        const vfloat z = load(this->gate + l * kLanes);
        store(dy + l * kLanes, load(dy + l * kLanes) * z * sigmoid(z));
      }
    }
    vfloat chunk_dD = {}, chunk_dbias = {};  // sums of sums: long sequences lose fewer digits
    for (int64_t l = 0; l < steps; ++l) {
      store(du + l * kLanes, this->D * load(dy + l * kLanes));
      chunk_dD += load(dy + l * kLanes) * load(this->u + l * kLanes);
    }
    dD += chunk_dD;
    if (s.constant_B) memset(dB, 0, s.states * kLanes * sizeof(float));
    if (s.constant_C) memset(dC, 0, s.states * kLanes * sizeof(float));
    memset(ddelta, 0, steps * kLanes * sizeof(float));
    scan_chunk_backward(
        c, {dy, this->h, dh, du, ddelta, dA, dB, dC, s.states * kLanes, s.z ? this->y : nullptr, history});
    if (s.constant_B) add_states(dB, dB_own);
    if (s.constant_C) add_states(dC, dC_own);
    if (s.z) {
      for (int64_t l = 0; l < steps; ++l) {
        const vfloat z = load(this->gate + l * kLanes), e = sigmoid(z);
        const vfloat slope = e * (1.0f + z * (1.0f - e));
        store(raw + l * kLanes, load(raw + l * kLanes) * load(this->y + l * kLanes) * slope);
      }
      this->store_steps(raw, start, steps, g.dz, g.dz_strides);
    }
    if (s.softplus) {
      this->load_steps(s.delta, s.delta_strides, start, steps, raw);
      for (int64_t l = 0; l < steps; ++l)
        store(ddelta + l * kLanes, load(ddelta + l * kLanes) * sigmoid(load(raw + l * kLanes) + this->bias));
    }
    for (int64_t l = 0; l < steps; ++l) chunk_dbias += load(ddelta + l * kLanes);
    dbias += chunk_dbias;
    this->store_steps(du, start, steps, g.du, g.du_strides);
    this->store_steps(ddelta, start, steps, g.ddelta, g.ddelta_strides);
  }

  void add_states(const float* part, float* total) const {
    for (int64_t n = 0; n < this->s.states; ++n)
      store(total + n * kLanes, load(total + n * kLanes) + load(part + n * kLanes));
  }

  void finish(const SelectiveScanGradient& g) {
    this->store_states(dA, g.dA);
    if (this->s.constant_B) this->store_states(dB_own, g.dB);
    if (this->s.constant_C) this->store_states(dC_own, g.dC);
    if (g.dinitial_state) this->store_states(dh, g.dinitial_state);
    const int64_t row = this->block.batch * this->s.dim + this->block.channel;
    if (g.dD) store_some(g.dD + row, dD, this->block.lanes);
    if (g.ddelta_bias) store_some(g.ddelta_bias + row, dbias, this->block.lanes);
  }
};

template <class T>
void backward(const SelectiveScan& s, const SelectiveScanGradient& g) {
  pack_rows<T>(s);
  const Blocks blocks(s);
  const int64_t sequences = s.batch * s.groups;
  parallel_for(g.splits * sequences, [&](int64_t task) {
    const FlushDenormals flush;
    const int64_t split = task / sequences, sequence = task % sequences;
    const int64_t first = blocks.per_group * split / g.splits, last = blocks.per_group * (split + 1) / g.splits;
    const int64_t row = s.states * kLanes;
    Tiles tiles;
    BlockGradientTiles own;
    const int64_t own_size = Arena::measure([&](Arena& arena) { own.lay_out(s, arena); });
    float *dB, *dC, *history, *owned;
    BlockScanBackward<T>* scans;
    const Arena arena([&](Arena& arena) {
      tiles.lay_out(arena);
      dB = arena.take(kChunk * row), dC = arena.take(kChunk * row);
      history = arena.take(2 * kBackwardStates * kTile);
      owned = arena.take(own_size * (last - first));
      scans = arena.take<BlockScanBackward<T>>(last - first);
    });
    for (int64_t i = first; i < last; ++i) {
      Arena part(owned + (i - first) * own_size, own_size);
      own.lay_out(s, part);
      new (scans + i - first) BlockScanBackward<T>(s, g, blocks.at(sequence / s.groups, sequence % s.groups, i), tiles, own);
    }

    for (int64_t start = (s.length - 1) / kChunk * kChunk; start >= 0; start -= kChunk) {
      const int64_t steps = smaller(kChunk, s.length - start);
      memset(dB, 0, steps * row * sizeof(float));
      memset(dC, 0, steps * row * sizeof(float));
      for (int64_t i = 0; i < last - first; ++i) scans[i].chunk(g, start, steps, dB, dC, history);
      const int64_t at = (task * s.length + start) * s.states;
      if (!s.constant_B) sum_over_lanes(dB, steps * s.states, g.dB + at);
      if (!s.constant_C) sum_over_lanes(dC, steps * s.states, g.dC + at);
    }
    for (int64_t i = 0; i < last - first; ++i) scans[i].finish(g);
  });
}

}  // namespace

void selective_scan_forward(const SelectiveScan& s, const SelectiveScanOutput& o) {
  s.bfloat16 ? forward<bfloat16>(s, o) : forward<float>(s, o);
}

void selective_scan_backward(const SelectiveScan& s, const SelectiveScanGradient& g) {
  s.bfloat16 ? backward<bfloat16>(s, g) : backward<float>(s, g);
}

void sum_partial_rows(const float* partial, int64_t parts, int64_t sequences, int64_t length, int64_t states,
                      bool bf16, void* out) {
  const int64_t size = sequences * length * states;
  parallel_for(sequences, [&](int64_t sequence) {
    for (int64_t l = 0; l < length; ++l) {
      for (int64_t n = 0; n < states; ++n) {
        const float* p = partial + (sequence * length + l) * states + n;
        float total = 0;
        for (int64_t part = 0; part < parts; ++part) total += p[part * size];
        const int64_t at = (sequence * states + n) * length + l;
        bf16 ? store1(static_cast<bfloat16*>(out) + at, total) : store1(static_cast<float*>(out) + at, total);
      }
    }
  });
}

}  // namespace lifter::LIFTER_CAPABILITY
