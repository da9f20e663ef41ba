// The scan of Mamba-2: per (clip, heads of a group) and chunk of steps, the products of C and B that the heads share, then
// every head by itself: the inputs of the chunk, and the state before it.
//
// For one head let a_l = dt_l A, and c_l be the sum of a from the start of the chunk up to l. With u_l = dt_l x_l, B_l and C_l
// rows, and S = h^T the state before the chunk of L steps:
//
//   y_n = sum over m <= n of e^(c_n - c_m) (C_n . B_m) u_m  +  e^(c_n) S^T C_n  +  D x_n
//   S'  = e^(c_L-1) S  +  sum over m of e^(c_L-1 - c_m) B_m u_m^T
//
// A sequence sees nothing from before its first step: the factor w_nm of a pair is 0 if n and m are of two sequences, and so
// are `before_` = e^(c_n) and `after_` = e^(c_L-1 - c_m), where a sequence begins up to n or after m.
//
// Backward, from the last chunk to the first, dS' on entry and dS on return. The matrices of pairs are transposed: a row is an
// m. With P_nm = w_nm (C_n . B_m) and dP_nm = dy_n . u_m:
//
//   du_m = sum over n of P_nm dy_n         +  after_m dS'^T B_m
//   dB_m = sum over n of w_nm dP_nm C_n    +  after_m dS' u_m
//   dC_n = sum over m of w_nm dP_nm B_m    +  before_n S dy_n
//   dS   = e^(c_L-1) dS'  +  sum over n of before_n C_n dy_n^T
//
// Each of these exponents is a sum of neighbouring a. So da_k is the sum of gradient times term over all terms whose exponent
// has a_k: those of P with m < k <= n (`within_`), of y with k <= n (`crossed_`), of S' with m < k (`kept_`), and e^(c_L-1) S.
// Nothing is subtracted, so that nothing cancels. At last dx = dt du + D dy, ddt = A da + x . du, dA = sum of dt da.
#include "mamba_chunk_scan.h"

#include "mamba_chunk.h"
#include "reduce.h"

namespace lifter::LIFTER_CAPABILITY {
namespace {

template <class T>
class Forward : Walk<T> {
  using Base = Walk<T>;
  using Base::keys_, Base::queries_, Base::x_, Base::u_;
  using Base::s_, Base::key_row_, Base::value_row_, Base::state_, Base::first_, Base::length_, Base::head_;

 public:
  Forward(const MambaChunkScan& s, T* out, float* final_states)
      : Base(s), out_(out), final_states_(final_states), arena_([this](Arena& arena) { lay_out(arena); }) {}

  void operator()(const WorkItem& p, const WorkItem&) {
    Base::start(p);
    if (s_.length <= kFew && (s_.initial_states || final_states_)) return few();
    for (int64_t h = Base::first_head_; h < Base::end_head_; ++h) Base::load_state(s_.initial_states, h, state_of(h));
    for (int64_t first = 0; first < s_.length; first += kSteps) {
      Base::start_chunk(first);
      Base::load_queries();
      transpose_rows(keys_, key_row_, length_, s_.states, keys_t_, kMatrix);
      blocks(length_, [&](int64_t i, int64_t count) {
        gemm(count, padded(i + count), s_.states, queries_ + i * key_row_, key_row_, 1, keys_t_, kMatrix,
             scores_ + i * kMatrix, kMatrix);
      });
      for (int64_t h = Base::first_head_; h < Base::end_head_; ++h) {
        Base::start_head(h);
        const bool has_state = first || s_.initial_states;
        blocks(length_, [&](int64_t i, int64_t count) { block(i, count, has_state ? state_of(h) : nullptr); });
        if (first + kSteps < s_.length || final_states_) Base::advance(state_of(h), state_of(h));
      }
    }
    if (final_states_)
      for (int64_t h = Base::first_head_; h < Base::end_head_; ++h) Base::store_state(state_of(h), h, final_states_);
  }

 private:
  void lay_out(Arena& arena) {
    keys_t_ = arena.take(s_.states * kMatrix), scores_ = arena.take(kSteps * kMatrix);
    products_ = arena.take(kRows * kMatrix), sums_ = arena.take(kRows * value_row_), z_ = arena.take(kRows * value_row_);
    states_ = arena.take(Base::most_heads() * state_);
  }

  float* state_of(int64_t head) const { return states_ + (head - Base::first_head_) * state_; }

  // The outputs of the steps [i, i + count) of the chunk.
  void block(int64_t i, int64_t count, const float* state) {
    const int64_t seen = i + count, seeing = state ? smaller(larger(Base::carried_ - i, 0), count) : 0;
    gemm(seeing, value_row_, s_.states, queries_ + i * key_row_, key_row_, 1, state, value_row_, sums_, value_row_);
    scale_rows(sums_, Base::before_ + i, seeing, value_row_, sums_);
    memset(sums_ + seeing * value_row_, 0, (count - seeing) * value_row_ * sizeof(float));
    for (int64_t r = 0; r < count; ++r)
      for (int64_t j = 0; j < padded(seen); j += kLanes) {
        const vint m = numbers(j);
        const vint own = (m <= static_cast<int32_t>(i + r)) & (m >= Base::starts_[i + r]);
        const vfloat product = Base::factors(i + r, j, false) * load(scores_ + (i + r) * kMatrix + j);
        store(products_ + r * kMatrix + j, own ? product : vfloat{});
      }
    gemm(count, value_row_, seen, products_, kMatrix, 1, u_, value_row_, sums_, value_row_, true);
    finish(i, count);
  }

  // All steps of a call of a few, whose state need not be turned.
  void few() {
    Base::start_chunk(0);
    Base::load_queries();
    for (int64_t h = Base::first_head_; h < Base::end_head_; ++h) {
      Base::start_head(h);
      switch (length_) {
        case 1: few<1>(); break;
        case 2: few<2>(); break;
        case 3: few<3>(); break;
        default: few<kFew>();
      }
      finish(0, length_);
    }
  }

  template <int Steps>
  void few() {
    const int64_t place = Base::number(head_) * s_.width * s_.states;
    float decays[Steps];
    for (int l = 0; l < Steps; ++l)
      decays[l] = l && Base::starts_[l] == l ? 0 : exp_one(static_cast<double>(Base::dt_[l]) * s_.A[head_]);
    for (int64_t p = 0; p < s_.width; ++p) {
      vfloat sums[Steps] = {};
      for (int64_t c = 0, at = place + p * s_.states; c < s_.states; c += kLanes) {
        const int64_t lanes = s_.states - c;
        vfloat h = s_.initial_states ? load_some(s_.initial_states + at + c, lanes) : vfloat{};
#pragma GCC unroll 4
        for (int l = 0; l < Steps; ++l) {
          h = h * decays[l] + load(keys_ + l * key_row_ + c) * u_[l * value_row_ + p];
          sums[l] += h * load(queries_ + l * key_row_ + c);
        }
        if (final_states_) store_some(final_states_ + at + c, h, lanes);
      }
      for (int l = 0; l < Steps; ++l) sums_[l * value_row_ + p] = sum_lanes(sums[l]);
    }
  }

  // Skip, gate and the outputs of the steps [i, i + count) from sums_.
  void finish(int64_t i, int64_t count) {
    if (s_.D)
      for (int64_t c = 0; c < s_.width; c += kLanes) {
        const vfloat D = load_some(s_.D + head_ * s_.width + c, s_.width - c);
        for (int64_t r = 0; r < count; ++r) {
          float* sum = sums_ + r * value_row_ + c;
          store(sum, load(sum) + D * load(x_ + (i + r) * value_row_ + c));
        }
      }
    if (s_.z) {
      load_rows(Base::at(static_cast<const T*>(s_.z), s_.z_strides, head_, first_ + i), s_.z_strides.token, count, s_.width,
                z_, value_row_, 0);
      for (int64_t c = 0; c < count * value_row_; c += kLanes) {
        const vfloat z = load(z_ + c);
        store(sums_ + c, load(sums_ + c) * z * sigmoid(z));
      }
    }
    store_rows(sums_, value_row_, count, s_.width, Base::at(out_, s_.out_strides, head_, first_ + i), s_.out_strides.token);
  }

  T* out_;
  float* final_states_;
  float *keys_t_, *scores_, *products_, *sums_, *z_, *states_;
  const Arena arena_;
};

template <class T>
class Backward : Walk<T> {
  using Base = Walk<T>;
  using Base::keys_, Base::queries_, Base::x_, Base::u_, Base::weighted_, Base::before_, Base::after_, Base::dt_;
  using Base::s_, Base::key_row_, Base::value_row_, Base::state_, Base::first_, Base::length_, Base::head_, Base::carried_;

 public:
  Backward(const MambaChunkScan& s, const MambaChunkScanGradient& g)
      : Base(s), g_(g), arena_([this](Arena& arena) { lay_out(arena); }) {
    memset(products_, 0, kSteps * kMatrix * sizeof(float));  // as it stays where n < m
  }

  void operator()(const WorkItem& p, const WorkItem&) {
    Base::start(p);
    part_ = p.head;
    const int64_t first_head = Base::first_head_, end_head = Base::end_head_, chunks = Base::chunks();
    for (int64_t h = first_head; h < end_head; ++h) Base::load_state(s_.initial_states, h, state_of(h, 0));
    for (int64_t n = 0; n + 1 < chunks; ++n) {
      Base::start_chunk(n * kSteps);
      for (int64_t h = first_head; h < end_head; ++h) {
        Base::start_head(h);
        Base::advance(state_of(h, n), state_of(h, n + 1));
      }
    }
    for (int64_t h = first_head; h < end_head; ++h) Base::load_state(g_.dfinal_states, h, dstate_of(h));
    memset(dA_, 0, Base::most_heads() * sizeof(double));
    memset(dbias_, 0, Base::most_heads() * sizeof(double));
    memset(dD_, 0, Base::most_heads() * value_row_ * sizeof(float));
    for (int64_t n = chunks - 1; n >= 0; --n) chunk(n);
    for (int64_t h = first_head, i = 0; h < end_head; ++h, ++i) {
      g_.dA[Base::number(h)] = static_cast<float>(dA_[i]);
      if (g_.ddt_bias) g_.ddt_bias[Base::number(h)] = static_cast<float>(dbias_[i]);
      if (g_.dD) store_rows(dD_ + i * value_row_, value_row_, 1, s_.width, g_.dD + Base::number(h) * s_.width, s_.width);
      if (g_.dinitial_states) Base::store_state(dstate_of(h), h, g_.dinitial_states);
    }
  }

 private:
  void lay_out(Arena& arena) {
    const int64_t heads = Base::most_heads();
    for (float** rows : {&dkeys_, &dqueries_, &crossing_}) *rows = arena.take(kSteps * key_row_);
    for (float** rows : {&du_, &douts_, &y_, &z_}) *rows = arena.take(kSteps * value_row_);
    for (float** matrix : {&scores_, &dscores_, &weights_, &products_, &dproducts_}) *matrix = arena.take(kSteps * kMatrix);
    for (float** row : {&within_, &crossed_, &kept_, &dunbound_, &sums_}) *row = arena.take(kSteps);
    queries_t_ = arena.take(s_.states * kMatrix), douts_t_ = arena.take(s_.width * kMatrix);
    state_t_ = arena.take(s_.width * key_row_), dD_ = arena.take(heads * value_row_);
    dA_ = arena.take<double>(heads), dbias_ = arena.take<double>(heads), da_ = arena.take<double>(kSteps);
    dstates_ = arena.take(heads * state_), states_ = arena.take(heads * Base::chunks() * state_);
  }

  float* state_of(int64_t head, int64_t chunk) const {
    return states_ + ((head - Base::first_head_) * Base::chunks() + chunk) * state_;
  }
  float* dstate_of(int64_t head) const { return dstates_ + (head - Base::first_head_) * state_; }

  void chunk(int64_t n) {
    Base::start_chunk(n * kSteps);
    Base::load_queries();
    transpose_rows(queries_, key_row_, length_, s_.states, queries_t_, kMatrix);
    blocks(length_, [&](int64_t i, int64_t count) {
      gemm(count, padded(length_) - i, s_.states, keys_ + i * key_row_, key_row_, 1, queries_t_ + i, kMatrix,
           scores_ + i * kMatrix + i, kMatrix);
    });
    memset(dscores_, 0, length_ * kMatrix * sizeof(float));
    for (float* rows : {dkeys_, dqueries_}) memset(rows, 0, length_ * key_row_ * sizeof(float));
    for (int64_t h = Base::first_head_; h < Base::end_head_; ++h) {
      Base::start_head(h);
      head(n || s_.initial_states ? state_of(h, n) : nullptr, dstate_of(h), n + 1 < Base::chunks() || g_.dfinal_states);
    }
    blocks(length_, [&](int64_t i, int64_t count) {
      const float* pairs = dscores_ + i * kMatrix + i;
      gemm(count, key_row_, length_ - i, pairs, kMatrix, 1, queries_ + i * key_row_, key_row_, dkeys_ + i * key_row_, key_row_,
           true);
      gemm(length_ - i, key_row_, count, pairs, 1, kMatrix, keys_ + i * key_row_, key_row_, dqueries_ + i * key_row_, key_row_,
           true);
    });
    const int64_t stride = s_.groups * s_.states;
    const int64_t place = ((part_ * s_.batch + Base::batch_) * s_.length + first_) * stride + Base::group_ * s_.states;
    store_rows(dkeys_, key_row_, length_, s_.states, g_.dB_parts + place, stride);
    store_rows(dqueries_, key_row_, length_, s_.states, g_.dC_parts + place, stride);
  }

  // `state` is null if there is none; `fed` says whether the state after the chunk has a gradient.
  void head(const float* state, float* dstate, bool fed) {
    for (int64_t m = 0; m < length_; ++m)
      for (int64_t j = m / kLanes * kLanes; j < length_; j += kLanes) {
        const vint n = numbers(j), starts = (vint)load(reinterpret_cast<const uint32_t*>(Base::starts_) + j);
        const vint own = (n >= static_cast<int32_t>(m)) & (starts <= static_cast<int32_t>(m));
        const vfloat weight = own ? Base::factors(m, j, true) : vfloat{};
        store(weights_ + m * kMatrix + j, weight);
        store(products_ + m * kMatrix + j, weight * load(scores_ + m * kMatrix + j));
      }
    load_rows(Base::at(static_cast<const T*>(g_.dout), s_.out_strides, head_, first_), s_.out_strides.token, length_, s_.width,
              douts_, value_row_, 0);
    if (s_.z) through_gate(state);
    transpose_rows(douts_, value_row_, length_, s_.width, douts_t_, kMatrix);
    const float total = fed ? through_state_after(state, dstate) : 0;
    if (!fed) memset(du_, 0, length_ * value_row_ * sizeof(float)), memset(kept_, 0, kSteps * sizeof(float));
    memset(crossed_, 0, kSteps * sizeof(float));
    if (state) through_state_before(state, dstate);
    through_pairs();

    double sum = total;
    for (int64_t k = 0; k < length_; sum += kept_[k++]) da_[k] = sum + within_[k];
    sum = 0;
    for (int64_t k = length_ - 1; k >= 0; --k) da_[k] += sum += crossed_[k];
    finish();
  }

  // dz, and douts_ becomes the gradient of what the gate multiplies.
  void through_gate(const float* state) {
    const int64_t seeing = state ? carried_ : 0;
    gemm(seeing, value_row_, s_.states, queries_, key_row_, 1, state, value_row_, y_, value_row_);
    scale_rows(y_, before_, seeing, value_row_, y_);
    memset(y_ + seeing * value_row_, 0, (length_ - seeing) * value_row_ * sizeof(float));
    blocks(length_, [&](int64_t i, int64_t count) {
      gemm(length_ - i, value_row_, count, products_ + i * kMatrix + i, 1, kMatrix, u_ + i * value_row_, value_row_,
           y_ + i * value_row_, value_row_, true);
    });
    load_rows(Base::at(static_cast<const T*>(s_.z), s_.z_strides, head_, first_), s_.z_strides.token, length_, s_.width, z_,
              value_row_, 0);
    for (int64_t c = 0; c < s_.width; c += kLanes) {
      const vfloat D = s_.D ? load_some(s_.D + head_ * s_.width + c, s_.width - c) : vfloat{};
      for (int64_t i = 0; i < length_; ++i) {
        const int64_t at = i * value_row_ + c;
        const vfloat z = load(z_ + at), s = sigmoid(z), dout = load(douts_ + at);
        store(z_ + at, dout * (load(y_ + at) + D * load(x_ + at)) * silu_slope(z, s));
        store(douts_ + at, dout * z * s);
      }
    }
    store_rows(z_, value_row_, length_, s_.width, Base::at(static_cast<T*>(g_.dz), s_.out_strides, head_, first_),
               s_.out_strides.token);
  }

  // Begins du_, adds to dkeys_, and takes dstate to what is before the chunk. Returns <e^(c_L-1) S, dS'>.
  float through_state_after(const float* state, float* dstate) {
    gemm(length_, value_row_, s_.states, keys_, key_row_, 1, dstate, value_row_, du_, value_row_);
    scale_rows(du_, after_, length_, value_row_, du_);
    for (int64_t m = 0; m < length_; ++m) kept_[m] = dot(du_ + m * value_row_, u_ + m * value_row_, value_row_);
    transpose_rows(dstate, value_row_, s_.states, s_.width, state_t_, key_row_);
    scale_rows(u_, after_, length_, value_row_, weighted_);
    gemm(length_, key_row_, s_.width, weighted_, value_row_, 1, state_t_, key_row_, dkeys_, key_row_, true);
    for (int64_t i = 0; i < state_; i += kLanes)
      store(dstate + i, Base::whole_ == 0 ? vfloat{} : load(dstate + i) * Base::whole_);
    return state ? dot(state, dstate, state_) : 0;
  }

  // Adds to dqueries_ and dstate.
  void through_state_before(const float* state, float* dstate) {
    scale_rows(douts_, before_, carried_, value_row_, weighted_);
    transpose_rows(state, value_row_, s_.states, s_.width, state_t_, key_row_);
    gemm(carried_, key_row_, s_.width, weighted_, value_row_, 1, state_t_, key_row_, crossing_, key_row_);
    for (int64_t n = 0; n < carried_; ++n) crossed_[n] = dot(crossing_ + n * key_row_, queries_ + n * key_row_, key_row_);
    for (int64_t c = 0; c < carried_ * key_row_; c += kLanes) store(dqueries_ + c, load(dqueries_ + c) + load(crossing_ + c));
    gemm(s_.states, value_row_, carried_, queries_, 1, key_row_, weighted_, value_row_, dstate, value_row_, true);
  }

  // Adds to du_ and dscores_, and makes within_.
  void through_pairs() {
    blocks(length_, [&](int64_t i, int64_t count) {
      gemm(count, padded(length_) - i, s_.width, u_ + i * value_row_, value_row_, 1, douts_t_ + i, kMatrix,
           dproducts_ + i * kMatrix + i, kMatrix);
      gemm(count, value_row_, length_ - i, products_ + i * kMatrix + i, kMatrix, 1, douts_ + i * value_row_, value_row_,
           du_ + i * value_row_, value_row_, true);
    });
    memset(sums_, 0, kSteps * sizeof(float));  // of the terms of every n with what was before m
    for (int64_t m = 0; m < length_; ++m) {
      vfloat sum = {};
      for (int64_t j = m / kLanes * kLanes; j < length_; j += kLanes) {
        sum += load(sums_ + j);
        const int64_t at = m * kMatrix + j;
        const vfloat d = load(dproducts_ + at);
        store(dscores_ + at, load(dscores_ + at) + d * load(weights_ + at));
        store(sums_ + j, load(sums_ + j) + d * load(products_ + at));
      }
      within_[m] = sum_lanes(sum);
      sums_[m] = 0;
    }
  }

  // dx, ddt and what is summed over steps, of du_, douts_ and da_.
  void finish() {
    const int64_t place = head_ - Base::first_head_;
    for (int64_t k = 0; k < length_; ++k) {
      dunbound_[k] = static_cast<float>(s_.A[head_] * da_[k]) + dot(x_ + k * value_row_, du_ + k * value_row_, value_row_);
      dA_[place] += dt_[k] * da_[k];
    }
    for (int64_t k = 0; k < length_; k += kLanes) {
      const vfloat dt = load(Base::unbound_ + k), slope = s_.softplus ? sigmoid(load(Base::raw_ + k)) : splat(1.0f);
      store(dunbound_ + k, (dt < s_.least) | (dt > s_.largest) ? vfloat{} : load(dunbound_ + k) * slope);
    }
    for (int64_t k = 0; k < length_; ++k) {
      g_.ddt[(Base::batch_ * s_.length + first_ + k) * s_.heads + head_] = dunbound_[k];
      dbias_[place] += dunbound_[k];
    }
    for (int64_t c = 0; c < s_.width; c += kLanes) {
      const vfloat D = s_.D ? load_some(s_.D + head_ * s_.width + c, s_.width - c) : vfloat{};
      vfloat dD = load(dD_ + place * value_row_ + c);
      for (int64_t k = 0; k < length_; ++k) {
        const vfloat dout = load(douts_ + k * value_row_ + c);
        dD += dout * load(x_ + k * value_row_ + c);
        float* du = du_ + k * value_row_ + c;
        store(du, load(du) * dt_[k] + D * dout);
      }
      store(dD_ + place * value_row_ + c, dD);
    }
    store_rows(du_, value_row_, length_, s_.width, Base::at(static_cast<T*>(g_.dx), s_.out_strides, head_, first_),
               s_.out_strides.token);
  }

  const MambaChunkScanGradient& g_;
  int64_t part_;
  double *dA_, *dbias_, *da_;
  float *dkeys_, *dqueries_, *crossing_, *du_, *douts_, *y_, *z_, *scores_, *dscores_, *weights_, *products_, *dproducts_,
      *within_, *crossed_, *kept_, *dunbound_, *sums_, *queries_t_, *douts_t_, *state_t_, *dD_, *dstates_, *states_;
  const Arena arena_;
};

template <class T>
void sum_rows_of_parts(const MambaChunkScan& s, const float* rows, T* out) {
  const int64_t row = s.groups * s.states, size = s.batch * s.length * row;
  parallel_for(s.batch * s.length, [&](int64_t n) {
    for (int64_t i = 0; i < row; i += kLanes)
      store_some(out + n * row + i, sum_parts(rows + n * row + i, s.parts, size, row - i), row - i);
  });
}

template <class T>
void backward(const MambaChunkScan& s, const MambaChunkScanGradient& g) {
  each_work_item<Backward<T>>(s.batch, s.groups, s.parts, s, g);
  sum_rows_of_parts(s, g.dB_parts, static_cast<T*>(g.dB));
  sum_rows_of_parts(s, g.dC_parts, static_cast<T*>(g.dC));
}

}  // namespace

void mamba_chunk_scan_forward(const MambaChunkScan& s, void* out, float* final_states) {
  if (s.bfloat16) each_work_item<Forward<bfloat16>>(s.batch, s.groups, s.parts, s, static_cast<bfloat16*>(out), final_states);
  else each_work_item<Forward<float>>(s.batch, s.groups, s.parts, s, static_cast<float*>(out), final_states);
}

void mamba_chunk_scan_backward(const MambaChunkScan& s, const MambaChunkScanGradient& g) {
  s.bfloat16 ? backward<bfloat16>(s, g) : backward<float>(s, g);
}

}  // namespace lifter::LIFTER_CAPABILITY
