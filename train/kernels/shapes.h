// Shapes of operations, the same on every backend. Suffixes of pointers are shapes, row-major:
//   N  tokens of a micro-batch, B sequences of T     D  width of the model    V  vocabulary
//   H  query heads, G key/value heads, A head width  E  experts, K top_k      F  width of an expert
//   R  rows that were sent or received               X  any width
//   P = H + 2 G, the heads of one row of queries, keys and values side by side
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast::train::kernels {

enum class Into : uint8_t { kOverwrite, kAdd };

// In the place of a row: a choice that was dropped has none, and a row that holds no choice comes from
// and goes to none.
inline constexpr uint32_t kNoRow = 0xffffffff;

struct RowShape {
  size_t rows;
  size_t width;
};

// A linear layer y_NO = x_NI w_OI^T: weights are [out, in], as everywhere in Holdfast.
struct LinearShape {
  size_t rows;  // N
  size_t in;    // I
  size_t out;   // O
};

struct AttentionShape {
  size_t sequences;   // B
  size_t context;     // T
  size_t heads;       // H, a multiple of G
  size_t kv_heads;    // G
  size_t head_width;  // A
  size_t tokens() const { return sequences * context; }
  size_t width() const { return heads * head_width; }                        // of the output
  size_t packed_width() const { return (heads + 2 * kv_heads) * head_width; }  // of q, k, v
};

struct RouterShape {
  size_t tokens;   // N
  size_t experts;  // E
  size_t top_k;    // K <= E
  size_t choices() const { return tokens * top_k; }
};

struct RouterLosses {
  double load_balance =
      0;         // E sum_e f_e P_e (Switch, arXiv 2101.03961, eq. 4); f_e over all choices
  double z = 0;  // mean of logsumexp^2 (ST-MoE, arXiv 2202.08906, eq. 5)
};

struct CombineShape {
  size_t tokens;  // N
  size_t top_k;   // K
  size_t width;   // D
};

struct ExpertShape {
  size_t width;         // D
  size_t expert_width;  // F
};

// Weights or gradients of the experts that one layer hosts, by ascending expert: expert i begins at
// base + i * stride with gate [F, D], up [F, D], down [D, F], one after the other.
template <class P>
struct ExpertTensors {
  P base = nullptr;
  size_t stride = 0;
};

// What one update of AdamW needs besides the tensors (arXiv 1711.05101, algorithm 2).
struct AdamwConstants {
  float beta1, beta2, epsilon, rate, gradient_scale, m_correction, v_correction;
};

// `weights`, where not null, get next_master in the compute type.
template <class V>
struct AdamwTensors {
  const float *master, *m, *v, *gradient;
  float *next_master, *next_m, *next_v;
  V* weights = nullptr;
};
// A run of elements with one weight decay. Operations take many ranges at once: a model has thousands
// of small tensors, and one launch for each would cost more than the arithmetic.
template <class V>
struct AdamwRange {
  size_t elements;
  float decay;
  AdamwTensors<V> tensors;
};
struct FloatRange {
  const float* data;
  size_t elements;
};

}  // namespace holdfast::train::kernels
