// The operations of the model besides matrix products, forward (F), input gradient (I) and weight
// gradient (W) apart (ReCycle, arXiv 2405.14009, section 3.2), on the CPU: the reference that those of
// ops_cuda.h are held against. Nothing here allocates what a caller could keep, and nothing depends
// on the number of threads or lanes. Shapes are explained in shapes.h.
//
// The first argument names the backend, so that the model, which calls these without saying a
// namespace, gets those of the backend that it is compiled for.
//
// Every operation is instantiated for float and double; N, R = 0 are allowed everywhere.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "base/result.h"
#include "train/kernels/rooms.h"
#include "train/kernels/shapes.h"
#include "train/tensor/buffer.h"

namespace holdfast::train::kernels {

// The calling thread. Has no state: every operation is done when it returns.
struct Cpu {
  Status check() const { return {}; }
  Status finish() const { return {}; }
};

template <class T>
void copy(const Cpu&, const T* from, size_t elements, T* to) {
  std::copy_n(from, elements, to);
}
template <class T>
void zero(const Cpu&, T* at, size_t elements) {
  std::fill_n(at, elements, T{});
}
// Between memory of the host and the device's: here the same.
template <class T>
void upload(const Cpu&, const T* host, size_t elements, T* to) {
  std::copy_n(host, elements, to);
}
template <class T>
void download(const Cpu&, const T* from, size_t elements, T* host) {
  std::copy_n(from, elements, host);
}

// ---- RMSNorm: y = x * inverse_rms(x) * weight -------------------------------------------------

template <class T>
void rms_norm(const Cpu&, RowShape shape, const T* x_ND, const T* weight_D, double epsilon,
              T* inverse_rms_N, T* y_ND);
// dx_ND += ...: the norm sits beside a residual connection, whose gradient dx already holds.
template <class T>
void rms_norm_input_gradient(const Cpu&, RowShape shape, const T* dy_ND, const T* x_ND,
                             const T* weight_D, const T* inverse_rms_N, T* dx_ND);
template <class T>
void rms_norm_weight_gradient(const Cpu&, RowShape shape, const T* dy_ND, const T* x_ND,
                              const T* inverse_rms_N, Into into, T* dweight_D);

// ---- rotary positions, half rotation: pairs are (a, a + A/2), as in Mixtral -------------------

template <class T>
class RotaryTable {
 public:
  RotaryTable(const Cpu&, size_t context, size_t head_width, double theta);
  size_t context() const { return context_; }
  size_t half() const { return half_; }
  const T* cosine(size_t position) const { return cosine_.data() + position * half_; }
  const T* sine(size_t position) const { return sine_.data() + position * half_; }

 private:
  size_t context_;
  size_t half_;
  Buffer<T> cosine_;  // [T, A/2]
  Buffer<T> sine_;
};

// Rotates the queries and keys of q, k, v [N, P * A] in place; row n has position n mod T, which may be
// shorter than the table's.
template <class T>
void rotary(const Cpu&, AttentionShape shape, const RotaryTable<T>& table, T* qkv_NPA);
template <class T>
void rotary_input_gradient(const Cpu&, AttentionShape shape, const RotaryTable<T>& table,
                           T* dqkv_NPA);

// ---- causal grouped-query attention -----------------------------------------------------------

// Elements of what F keeps for I besides its output: here the probabilities [B, H, T, T].
size_t attention_kept(const Cpu&, AttentionShape shape);
template <class T>
void attention(const Cpu&, AttentionShape shape, const T* qkv_NPA, T* kept, T* out_NHA);
// Overwrites dqkv.
template <class T>
void attention_input_gradient(const Cpu&, AttentionShape shape, const T* dout_NHA,
                              const T* qkv_NPA, const T* out_NHA, const T* kept, T* dqkv_NPA);

// ---- SwiGLU on rows of gate and up side by side: hidden = silu(gate) * up ----------------------

template <class T>
void swiglu(const Cpu&, size_t rows, size_t expert_width, const T* gate_up_R2F, T* hidden_RF);
// Overwrites gate and up with their gradients.
template <class T>
void swiglu_input_gradient(const Cpu&, size_t rows, size_t expert_width, const T* dhidden_RF,
                           T* gate_up_R2F);

// ---- router: softmax, top-k, gates -------------------------------------------------------------

// In: logits in `probabilities`; out: their softmax. choices_NK: the K most probable experts, most
// probable first, the lower id first among equals. Gates are the choices' probabilities, divided by
// their sum when K > 1.
template <class T>
void route(const Cpu&, RouterShape shape, T* probabilities_NE, T* logsumexp_N,
           uint32_t* choices_NK, T* gates_NK);
// counts_E: choices of each expert. rank_NK: how many choices before this one, in the order of n K + k,
// chose the same expert.
void count_choices(const Cpu&, RouterShape shape, const uint32_t* choices_NK, uint32_t* counts_E,
                   uint32_t* rank_NK);
// Adds the two losses, each times its weight, to losses[0] and losses[1]; nothing without tokens.
template <class T>
void router_losses(const Cpu&, RouterShape shape, const T* probabilities_NE, const T* logsumexp_N,
                   const uint32_t* counts_E, RouterLosses weights, double* losses);
// From the gates' gradients and the two losses, each scaled by `scale`, to the logits' gradients.
// The choice itself and f_e have no gradient.
template <class T>
void router_input_gradient(const Cpu&, RouterShape shape, const T* probabilities_NE,
                           const T* logsumexp_N, const uint32_t* choices_NK, const T* gates_NK,
                           const T* dgates_NK, const uint32_t* counts_E, RouterLosses scale,
                           T* dlogits_NE);

// ---- dispatch and combine: rows of tokens to rows of choices and back -------------------------

// first_row[e] = kept[0] + ... + kept[e - 1], for e = 0 .. E, where kept is min(counts, most) or, where
// most_E is null, counts.
void first_rows(const Cpu&, size_t experts, const uint32_t* counts_E, const uint32_t* most_E,
                uint32_t* first_row);
// One lane: row_of_choice = first_row[choice] + rank, and the token of each row. A choice whose rank
// does not fit before the next expert's rows is dropped: its row is kNoRow. Rows from first_row[E] on
// are not written.
void place_choices(const Cpu&, RouterShape shape, const uint32_t* choices_NK,
                   const uint32_t* rank_NK, const uint32_t* first_row, uint32_t* row_of_choice_NK,
                   uint32_t* token_of_row_R);
inline void fill_no_rows(const Cpu&, uint32_t* at, size_t elements) {
  std::fill_n(at, elements, kNoRow);
}
// out[r] = in[index[r]], zeros where that is kNoRow
template <class T>
void gather_rows(const Cpu&, RowShape shape, const uint32_t* index_R, const T* in, T* out_RX);
// out[index[r]] = in[r], except where index[r] is kNoRow
template <class T>
void scatter_rows(const Cpu&, RowShape shape, const uint32_t* index_R, const T* in_RX, T* out);
// out[r] = 0 where index[r] is kNoRow
template <class T>
void clear_rows(const Cpu&, RowShape shape, const uint32_t* index_R, T* out_RX);

// A choice whose row is kNoRow was dropped: it adds nothing, and its gate's gradient is zero.
// y_n = x_n + sum_k gate_nk rows[row_nk], added in the order of k.
template <class T>
void combine(const Cpu&, CombineShape shape, const uint32_t* row_NK, const T* gates_NK,
             const T* rows_RD, const T* x_ND, T* y_ND);
// drows[row_nk] = gate_nk dy_n, dgate_nk = dy_n . rows[row_nk]
template <class T>
void combine_input_gradient(const Cpu&, CombineShape shape, const uint32_t* row_NK,
                            const T* gates_NK, const T* rows_RD, const T* dy_ND, T* drows_RD,
                            T* dgates_NK);
// dx_n = sum_k drows[row_nk]: the gradient of having sent token n to K experts.
template <class T>
void dispatch_input_gradient(const Cpu&, CombineShape shape, const uint32_t* row_NK,
                             const T* drows_RD, T* dx_ND);

// Rooms of fixed size (rooms.h).
void place_in_rooms(const Cpu&, RouterShape shape, const SendRooms& rooms,
                    const uint32_t* choices_NK, const uint32_t* rank_NK, const uint32_t* counts_E,
                    uint32_t* row_of_choice_NK, uint32_t* token_of_row_R);
void write_heads(const Cpu&, const SendRooms& rooms, const uint32_t* counts_E, size_t row_bytes,
                 void* sent);
void read_heads(const Cpu&, const ReceiveRooms& rooms, size_t row_bytes, const void* received,
                uint32_t* rows_HC);
void place_received(const Cpu&, const ReceiveRooms& rooms, const uint32_t* begin_HC1,
                    uint32_t* place_of_row_R, uint32_t* first_row_H1);

// ---- embedding and loss ------------------------------------------------------------------------

template <class T>
void embedding(const Cpu&, RowShape shape, const int32_t* tokens_N, const T* table_VD, T* x_ND);
// dtable[token_n] += dx_n, in the order of n.
template <class T>
void embedding_weight_gradient(const Cpu&, RowShape shape, size_t vocabulary,
                               const int32_t* tokens_N, const T* dx_ND, Into into, T* dtable_VD);

// losses_N: -log p(target); *mean: their mean in fp64, 0 without rows. With `gradient_scale` the logits
// become their gradients of scale * mean, in the same pass; without, they are left undefined.
template <class T>
void cross_entropy(const Cpu&, RowShape shape, const int32_t* targets_N,
                   std::optional<double> gradient_scale, T* logits_NV, T* losses_N, double* mean);

// ---- optimizer ---------------------------------------------------------------------------------

// next = update(now, gradient), element by element.
void adamw(const Cpu&, const AdamwConstants& constants,
           std::span<const AdamwRange<float>> ranges);
// From masters to the compute type, here the same.
void convert(const Cpu&, const float* from, size_t elements, float* to);
void add(const Cpu&, const float* from, size_t elements, float* to);  // to += from
// sums[i]: of range i, in fp64, in the order of the elements.
void sum_squares(const Cpu&, std::span<const FloatRange> ranges, double* sums);

// ---- memory of any kind, now --------------------------------------------------------------------

// From any host memory; done when it returns. For loading state, not for a step.
inline void upload_now(const Cpu&, const void* host, size_t bytes, void* to) {
  if (bytes > 0) std::memcpy(to, host, bytes);
}
// A point in what the device has been given to do, which the host can wait for.
class CpuMoment {
 public:
  void record(const Cpu&) {}
  void wait() {}
};
// Copies state out beside what the device does. For one other thread than the device's.
class CpuReader {
 public:
  explicit CpuReader(const Cpu&) {}
  Status read(const void* from, size_t bytes, void* host) {
    if (bytes > 0) std::memcpy(host, from, bytes);
    return {};
  }
};

}  // namespace holdfast::train::kernels
