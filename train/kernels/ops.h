// The operations of the model besides matrix products, forward (F), input gradient (I) and weight
// gradient (W) apart (ReCycle, arXiv 2405.14009, section 3.2). Nothing here allocates what a caller
// could keep, and nothing depends on the number of threads or lanes.
//
// Suffixes of pointers are shapes, row-major:
//   N tokens of a micro-batch (B sequences of T)   D width of the model    V vocabulary
//   H query heads, G key/value heads, A head width E experts, K top_k      F hidden width of an
//   expert R rows that were sent or received              X any width
// Every operation is instantiated for float and double; N, R = 0 are allowed everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "train/tensor/buffer.h"

namespace holdfast::train::kernels {

// ---- RMSNorm: y = x * inverse_rms(x) * weight -------------------------------------------------

struct RowShape {
  size_t rows;
  size_t width;
};

template <class T>
void rms_norm(RowShape shape, const T* x_ND, const T* weight_D, double epsilon, T* inverse_rms_N,
              T* y_ND);
// dx_ND += ...: the norm sits beside a residual connection, whose gradient dx already holds.
template <class T>
void rms_norm_input_gradient(RowShape shape, const T* dy_ND, const T* x_ND, const T* weight_D,
                             const T* inverse_rms_N, T* dx_ND);
template <class T>
void rms_norm_weight_gradient(RowShape shape, const T* dy_ND, const T* x_ND, const T* inverse_rms_N,
                              T* dweight_D);

// ---- rotary positions, half rotation: pairs are (a, a + A/2), as in Mixtral -------------------

template <class T>
class RotaryTable {
 public:
  RotaryTable(size_t context, size_t head_width, double theta);
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

// Rotates every head of x [rows, heads * A] in place; row n has position n mod `context`, which may
// be shorter than the table's.
template <class T>
void rotary(RowShape shape, size_t context, const RotaryTable<T>& table, T* x_NHA);
template <class T>
void rotary_input_gradient(RowShape shape, size_t context, const RotaryTable<T>& table, T* dx_NHA);

// ---- causal grouped-query attention -----------------------------------------------------------

struct AttentionShape {
  size_t sequences;   // B
  size_t context;     // T
  size_t heads;       // H, a multiple of G
  size_t kv_heads;    // G
  size_t head_width;  // A
  size_t probabilities() const { return sequences * heads * context * context; }
};

// Keeps the probabilities [B, H, T, T] (zero above the diagonal) for the input gradient.
template <class T>
void attention(AttentionShape shape, const T* q_NHA, const T* k_NGA, const T* v_NGA,
               T* probabilities_BHTT, T* out_NHA);
// Overwrites dq, dk, dv.
template <class T>
void attention_input_gradient(AttentionShape shape, const T* dout_NHA, const T* q_NHA,
                              const T* k_NGA, const T* v_NGA, const T* probabilities_BHTT,
                              T* dq_NHA, T* dk_NGA, T* dv_NGA);

// ---- SwiGLU: hidden = silu(gate) * up ----------------------------------------------------------

template <class T>
void swiglu(size_t elements, const T* gate, const T* up, T* hidden);
// Overwrites gate and up with their gradients.
template <class T>
void swiglu_input_gradient(size_t elements, const T* dhidden, T* gate, T* up);

// ---- router: softmax, top-k, gates -------------------------------------------------------------

struct RouterShape {
  size_t tokens;   // N
  size_t experts;  // E
  size_t top_k;    // K <= E
};

// In: logits in `probabilities`; out: their softmax. choices_NK: the K most probable experts, most
// probable first, the lower id first among equals. Gates are the choices' probabilities, divided by
// their sum when K > 1.
template <class T>
void route(RouterShape shape, T* probabilities_NE, T* logsumexp_N, uint32_t* choices_NK,
           T* gates_NK);

struct RouterLosses {
  double load_balance =
      0;         // E sum_e f_e P_e (Switch, arXiv 2101.03961, eq. 4); f_e over all choices
  double z = 0;  // mean of logsumexp^2 (ST-MoE, arXiv 2202.08906, eq. 5)
};
// counts_E: how many choices fell on each expert. Unweighted; 0 without tokens.
template <class T>
RouterLosses router_losses(RouterShape shape, const T* probabilities_NE, const T* logsumexp_N,
                           std::span<const uint32_t> counts_E);
// From the gates' gradients and the two losses, each scaled by `scale`, to the logits' gradients.
// The choice itself and f_e have no gradient.
template <class T>
void router_input_gradient(RouterShape shape, const T* probabilities_NE, const T* logsumexp_N,
                           const uint32_t* choices_NK, const T* gates_NK, const T* dgates_NK,
                           std::span<const uint32_t> counts_E, RouterLosses scale, T* dlogits_NE);

// ---- dispatch and combine: rows of tokens to rows of choices and back -------------------------

// out[r] = in[index[r]]
template <class T>
void gather_rows(RowShape shape, const uint32_t* index_R, const T* in, T* out_RX);
// out[index[r]] = in[r]
template <class T>
void scatter_rows(RowShape shape, const uint32_t* index_R, const T* in_RX, T* out);

struct CombineShape {
  size_t tokens;  // N
  size_t top_k;   // K
  size_t width;   // D
};
// y_n += sum_k gate_nk rows[row_nk], added in the order of k.
template <class T>
void combine(CombineShape shape, const uint32_t* row_NK, const T* gates_NK, const T* rows_RD,
             T* y_ND);
// drows[row_nk] = gate_nk dy_n, dgate_nk = dy_n . rows[row_nk]
template <class T>
void combine_input_gradient(CombineShape shape, const uint32_t* row_NK, const T* gates_NK,
                            const T* rows_RD, const T* dy_ND, T* drows_RD, T* dgates_NK);
// dx_n = sum_k drows[row_nk]: the gradient of having sent token n to K experts.
template <class T>
void dispatch_input_gradient(CombineShape shape, const uint32_t* row_NK, const T* drows_RD,
                             T* dx_ND);

// ---- embedding and loss ------------------------------------------------------------------------

template <class T>
void embedding(RowShape shape, const int32_t* tokens_N, const T* table_VD, T* x_ND);
// dtable[token_n] += dx_n, in the order of n.
template <class T>
void embedding_weight_gradient(RowShape shape, const int32_t* tokens_N, const T* dx_ND,
                               T* dtable_VD);

// In: logits in `probabilities` [rows, V]; out: their softmax. Returns the mean over the rows of
// -log p(target), 0 without rows.
template <class T>
double cross_entropy(RowShape shape, const int32_t* targets_N, T* probabilities_NV);
// Overwrites the probabilities with the logits' gradients of scale * mean.
template <class T>
void cross_entropy_input_gradient(RowShape shape, const int32_t* targets_N, double scale,
                                  T* probabilities_NV);

}  // namespace holdfast::train::kernels
