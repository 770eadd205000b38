// The operations of ops.h and gemm.h on an accelerator: bf16 weights and activations, fp32 statistics
// and weight gradients, sums in fp32 or wider. Same names, same meaning, same shapes; every pointer is
// device memory unless its name says host. All are deterministic: no atomics on floats, fixed orders.
// N, R = 0 are allowed everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "train/kernels/cuda.h"
#include "train/kernels/rooms.h"
#include "train/kernels/shapes.h"
#include "train/tensor/bf16.h"
#include "train/tensor/device_buffer.h"

namespace holdfast::train::kernels {

// ---- memory ------------------------------------------------------------------------------------

void copy_bytes(Cuda& cuda, const void* from, size_t bytes, void* to);
void zero_bytes(Cuda& cuda, void* at, size_t bytes);
// `host` must be pinned and stay as it is until finish().
void upload_bytes(Cuda& cuda, const void* host, size_t bytes, void* to);
void download_bytes(Cuda& cuda, const void* from, size_t bytes, void* host);

template <class T>
void copy(Cuda& cuda, const T* from, size_t elements, T* to) {
  copy_bytes(cuda, from, elements * sizeof(T), to);
}
template <class T>
void zero(Cuda& cuda, T* at, size_t elements) {
  zero_bytes(cuda, at, elements * sizeof(T));
}
template <class T>
void upload(Cuda& cuda, const T* host, size_t elements, T* to) {
  upload_bytes(cuda, host, elements * sizeof(T), to);
}
template <class T>
void download(Cuda& cuda, const T* from, size_t elements, T* host) {
  download_bytes(cuda, from, elements * sizeof(T), host);
}

// ---- products: gemm_cuda.cu, cuBLASLt ----------------------------------------------------------

// y = x w^T, plus `add` where that is not null (y itself is allowed).
void linear(Cuda& cuda, LinearShape shape, const Bf16* x_NI, const Bf16* w_OI, const Bf16* add_NO,
            Bf16* y_NO);
void linear(Cuda& cuda, LinearShape shape, const Bf16* x_NI, const Bf16* w_OI, float* y_NO);
inline void linear(Cuda& cuda, LinearShape shape, const Bf16* x_NI, const Bf16* w_OI,
                   Bf16* y_NO) {
  linear(cuda, shape, x_NI, w_OI, nullptr, y_NO);
}
// dx = dy w, plus `add`.
void linear_input_gradient(Cuda& cuda, LinearShape shape, const Bf16* dy_NO, const Bf16* w_OI,
                           const Bf16* add_NI, Bf16* dx_NI);
// dw (+)= dy^T x
void linear_weight_gradient(Cuda& cuda, LinearShape shape, const Bf16* dy_NO, const Bf16* x_NI,
                            Into into, float* dw_OI);

// ---- RMSNorm: rms_norm_cuda.cu -----------------------------------------------------------------

void rms_norm(Cuda& cuda, RowShape shape, const Bf16* x_ND, const Bf16* weight_D, double epsilon,
              float* inverse_rms_N, Bf16* y_ND);
// dx += ...
void rms_norm_input_gradient(Cuda& cuda, RowShape shape, const Bf16* dy_ND, const Bf16* x_ND,
                             const Bf16* weight_D, const float* inverse_rms_N, Bf16* dx_ND);
void rms_norm_weight_gradient(Cuda& cuda, RowShape shape, const Bf16* dy_ND, const Bf16* x_ND,
                              const float* inverse_rms_N, Into into, float* dweight_D);

// ---- rotary positions: rotary_cuda.cu ----------------------------------------------------------

class CudaRotaryTable {
 public:
  CudaRotaryTable(Cuda& cuda, size_t context, size_t head_width, double theta);
  size_t context() const { return context_; }
  size_t half() const { return half_; }
  const float* cosine() const { return cosine_.data(); }  // [T, A/2]
  const float* sine() const { return sine_.data(); }

 private:
  size_t context_, half_;
  DeviceBuffer<float> cosine_, sine_;
};
// Rotates queries and keys of q, k, v [N, P * A] in place; values stay.
void rotary(Cuda& cuda, AttentionShape shape, const CudaRotaryTable& table, Bf16* qkv_NPA);
void rotary_input_gradient(Cuda& cuda, AttentionShape shape, const CudaRotaryTable& table,
                           Bf16* dqkv_NPA);

// ---- causal grouped-query attention: attention_cuda.cpp, cuDNN ----------------------------------

// Elements of what F keeps for I besides its output.
size_t attention_kept(const Cuda& cuda, AttentionShape shape);  // logsumexp [B, H, T]
void attention(Cuda& cuda, AttentionShape shape, const Bf16* qkv_NPA, float* kept, Bf16* out_NHA);
// Overwrites dqkv.
void attention_input_gradient(Cuda& cuda, AttentionShape shape, const Bf16* dout_NHA,
                              const Bf16* qkv_NPA, const Bf16* out_NHA, const float* kept,
                              Bf16* dqkv_NPA);

// ---- router: router_cuda.cu --------------------------------------------------------------------

// As ops.h: logits in, probabilities out; the lower id among equals.
void route(Cuda& cuda, RouterShape shape, float* probabilities_NE, float* logsumexp_N,
           uint32_t* choices_NK, float* gates_NK);
// counts_E: choices of each expert. rank_NK: how many choices before this one, in the order of n K + k,
// chose the same expert.
void count_choices(Cuda& cuda, RouterShape shape, const uint32_t* choices_NK, uint32_t* counts_E,
                   uint32_t* rank_NK);
// Adds the two losses, each times its weight, to losses[0] and losses[1].
void router_losses(Cuda& cuda, RouterShape shape, const float* probabilities_NE,
                   const float* logsumexp_N, const uint32_t* counts_E, RouterLosses weights,
                   double* losses);
void router_input_gradient(Cuda& cuda, RouterShape shape, const float* probabilities_NE,
                           const float* logsumexp_N, const uint32_t* choices_NK,
                           const float* gates_NK, const float* dgates_NK, const uint32_t* counts_E,
                           RouterLosses scale, Bf16* dlogits_NE);

// ---- dispatch and combine: permute_cuda.cu -----------------------------------------------------

// first_row[e] = kept[0] + ... + kept[e - 1], for e = 0 .. E, where kept is min(counts, most) or, where
// most_E is null, counts.
void first_rows(Cuda& cuda, size_t experts, const uint32_t* counts_E, const uint32_t* most_E,
                uint32_t* first_row);
// One lane: row_of_choice = first_row[choice] + rank, and the token of each row; kNoRow for a choice
// that does not fit before the next expert's rows. Rows from first_row[E] on are not written.
void place_choices(Cuda& cuda, RouterShape shape, const uint32_t* choices_NK,
                   const uint32_t* rank_NK, const uint32_t* first_row, uint32_t* row_of_choice_NK,
                   uint32_t* token_of_row_R);
void fill_no_rows(Cuda& cuda, uint32_t* at, size_t elements);
// out[r] = in[index[r]], zeros where that is kNoRow
void gather_rows(Cuda& cuda, RowShape shape, const uint32_t* index_R, const Bf16* in,
                 Bf16* out_RX);
// out[index[r]] = in[r], except where index[r] is kNoRow
void scatter_rows(Cuda& cuda, RowShape shape, const uint32_t* index_R, const Bf16* in_RX,
                  Bf16* out);
// out[r] = 0 where index[r] is kNoRow
void clear_rows(Cuda& cuda, RowShape shape, const uint32_t* index_R, Bf16* out_RX);
// A choice whose row is kNoRow adds nothing, and its gate's gradient is zero.
// y_n = x_n + sum_k gate_nk rows[row_nk], added in the order of k.
void combine(Cuda& cuda, CombineShape shape, const uint32_t* row_NK, const float* gates_NK,
             const Bf16* rows_RD, const Bf16* x_ND, Bf16* y_ND);
void combine_input_gradient(Cuda& cuda, CombineShape shape, const uint32_t* row_NK,
                            const float* gates_NK, const Bf16* rows_RD, const Bf16* dy_ND,
                            Bf16* drows_RD, float* dgates_NK);
void dispatch_input_gradient(Cuda& cuda, CombineShape shape, const uint32_t* row_NK,
                             const Bf16* drows_RD, Bf16* dx_ND);

// ---- rooms of fixed size (rooms.h): rooms_cuda.cu -----------------------------------------------

void place_in_rooms(Cuda& cuda, RouterShape shape, const SendRooms& rooms,
                    const uint32_t* choices_NK, const uint32_t* rank_NK, const uint32_t* counts_E,
                    uint32_t* row_of_choice_NK, uint32_t* token_of_row_R);
void write_heads(Cuda& cuda, const SendRooms& rooms, const uint32_t* counts_E, size_t row_bytes,
                 void* sent);
void read_heads(Cuda& cuda, const ReceiveRooms& rooms, size_t row_bytes, const void* received,
                uint32_t* rows_HC);
void place_received(Cuda& cuda, const ReceiveRooms& rooms, const uint32_t* begin_HC1,
                    uint32_t* place_of_row_R, uint32_t* first_row_H1);

// ---- experts: experts_cuda.cu, grouped products -------------------------------------------------

// Rows in expert order: those of hosted expert i are first_row[i] .. first_row[i + 1].
struct ExpertRowsCuda {
  size_t experts;             // hosted
  size_t rows;                // room: first_row[experts] is at most this; what is beyond is not touched
  const uint32_t* first_row;  // [experts + 1]
};
// gate_up = x [gate; up]^T, hidden = silu(gate) * up, y = hidden down^T. Rows beyond the last expert's
// are not written.
void experts(Cuda& cuda, ExpertShape shape, ExpertRowsCuda rows, ExpertTensors<const Bf16*> weights,
             const Bf16* x_RD, Bf16* gate_up_R2F, Bf16* hidden_RF, Bf16* y_RD);
// gate_up: in, of F; out, its gradient. `scratch` is for one [R, F].
void experts_input_gradient(Cuda& cuda, ExpertShape shape, ExpertRowsCuda rows,
                            ExpertTensors<const Bf16*> weights, const Bf16* dy_RD,
                            Bf16* gate_up_R2F, Bf16* scratch_RF, Bf16* dx_RD);
// An expert without rows has the gradient zero: kOverwrite writes it.
void experts_weight_gradient(Cuda& cuda, ExpertShape shape, ExpertRowsCuda rows, const Bf16* x_RD,
                             const Bf16* dgate_up_R2F, const Bf16* dy_RD, const Bf16* hidden_RF,
                             Into into, ExpertTensors<float*> gradients);

// ---- SwiGLU on rows of gate and up side by side: swiglu_cuda.cu --------------------------------

// Where `used` is not null, only the first *used of the rows are read and written.
void swiglu(Cuda& cuda, size_t rows, size_t expert_width, const Bf16* gate_up_R2F,
            Bf16* hidden_RF, const uint32_t* used = nullptr);
// Overwrites gate and up with their gradients.
void swiglu_input_gradient(Cuda& cuda, size_t rows, size_t expert_width, const Bf16* dhidden_RF,
                           Bf16* gate_up_R2F, const uint32_t* used = nullptr);

// ---- embedding and loss: embedding_cuda.cu, cross_entropy_cuda.cu -------------------------------

void embedding(Cuda& cuda, RowShape shape, const int32_t* tokens_N, const Bf16* table_VD,
               Bf16* x_ND);
// Summed over equal tokens in the order of n.
void embedding_weight_gradient(Cuda& cuda, RowShape shape, size_t vocabulary,
                               const int32_t* tokens_N, const Bf16* dx_ND, Into into,
                               float* dtable_VD);
// losses_N: -log p(target); *mean: their mean in fp64, 0 without rows. With `gradient_scale` the logits
// become their gradients of scale * mean, in the same pass; without, they stay.
void cross_entropy(Cuda& cuda, RowShape shape, const int32_t* targets_N,
                   std::optional<double> gradient_scale, Bf16* logits_NV, float* losses_N,
                   double* mean);

// ---- optimizer: adamw_cuda.cu ------------------------------------------------------------------

void convert(Cuda& cuda, const float* from, size_t elements, Bf16* to);
void add(Cuda& cuda, const float* from, size_t elements, float* to);  // to += from
// sums[i]: of range i, in fp64, in an order that depends on its size alone.
void sum_squares(Cuda& cuda, std::span<const FloatRange> ranges, double* sums);
// next = update(now, gradient), element by element, bit for bit what the CPU computes. Does nothing
// once the device's abort word is set.
void adamw(Cuda& cuda, const AdamwConstants& constants,
           std::span<const AdamwRange<Bf16>> ranges);

// ---- waiting: device_cuda.cu -------------------------------------------------------------------

// A point in what the device has been given to do, which the host can wait for. For the thread that drives
// the device. That something went wrong on the way shows in the device's check().
class CudaMoment {
 public:
  CudaMoment() = default;
  CudaMoment(CudaMoment&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaMoment& operator=(CudaMoment&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaMoment();
  void record(Cuda& cuda);  // all that was enqueued so far
  void wait();              // at once where nothing was recorded

 private:
  void* event_ = nullptr;  // a cudaEvent_t
};

// ---- memory of any kind, now: device_cuda.cu ----------------------------------------------------

// From any host memory; done when it returns. For loading state, not for a step.
void upload_now(Cuda& cuda, const void* host, size_t bytes, void* to);
// Copies state out beside what the device does, on a stream of its own. For one other thread than the
// device's.
class CudaReader {
 public:
  explicit CudaReader(Cuda& cuda);
  ~CudaReader();
  CudaReader(const CudaReader&) = delete;
  CudaReader& operator=(const CudaReader&) = delete;
  Status read(const void* from, size_t bytes, void* host);  // kDeviceFailed

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::train::kernels
