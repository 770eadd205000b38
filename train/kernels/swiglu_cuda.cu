// SwiGLU on rows of gate and up side by side: one thread per pack of both.
#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

// Zero or one far from zero, never NaN: the quotient by infinity is zero.
__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + __expf(-x)); }

__device__ inline bool is_unused(const RowItem& at, const uint32_t* used) {
  return used != nullptr && at.row >= *used;
}

template <unsigned W>
__global__ void __launch_bounds__(kBlockThreads)
    swiglu_kernel(size_t rows, unsigned expert_width, const Bf16* gate_up_R2F, Bf16* hidden_RF,
                  const uint32_t* used) {
  const RowItem at = row_item(rows, expert_width / W);
  if (!at.valid || is_unused(at, used)) return;
  const Bf16* const gate_at = gate_up_R2F + at.row * 2 * expert_width + at.item * W;
  float gate[W], up[W];
  unpack(load_pack<W>(gate_at), gate);
  unpack(load_pack<W>(gate_at + expert_width), up);
#pragma unroll
  for (unsigned w = 0; w < W; ++w) up[w] = gate[w] * sigmoid(gate[w]) * up[w];
  store_pack(hidden_RF + at.row * expert_width + at.item * W, pack(up));
}

template <unsigned W>
__global__ void __launch_bounds__(kBlockThreads)
    swiglu_input_gradient_kernel(size_t rows, unsigned expert_width, const Bf16* dhidden_RF,
                                 Bf16* gate_up_R2F, const uint32_t* used) {
  const RowItem at = row_item(rows, expert_width / W);
  if (!at.valid || is_unused(at, used)) return;
  Bf16* const gate_at = gate_up_R2F + at.row * 2 * expert_width + at.item * W;
  Bf16* const up_at = gate_at + expert_width;
  float gate[W], up[W], dhidden[W];
  unpack(load_pack<W>(gate_at), gate);
  unpack(load_pack<W>(up_at), up);
  unpack(load_pack<W>(dhidden_RF + at.row * expert_width + at.item * W), dhidden);
#pragma unroll
  for (unsigned w = 0; w < W; ++w) {
    const float s = sigmoid(gate[w]);
    const float silu = gate[w] * s;
    const float dsilu = s + silu * (1.0F - s);
    gate[w] = dhidden[w] * up[w] * dsilu;
    up[w] = dhidden[w] * silu;
  }
  store_pack(gate_at, pack(gate));
  store_pack(up_at, pack(up));
}

}  // namespace

void swiglu(Cuda& cuda, size_t rows, size_t expert_width, const Bf16* gate_up_R2F,
            Bf16* hidden_RF, const uint32_t* used) {
  with_pack(is_wide(expert_width, {gate_up_R2F, hidden_RF}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    launch(cuda, "swiglu", {item_blocks(rows, expert_width / W)}, swiglu_kernel<W>, rows,
           expert_width, gate_up_R2F, hidden_RF, used);
  });
}

void swiglu_input_gradient(Cuda& cuda, size_t rows, size_t expert_width, const Bf16* dhidden_RF,
                           Bf16* gate_up_R2F, const uint32_t* used) {
  with_pack(is_wide(expert_width, {gate_up_R2F, dhidden_RF}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    launch(cuda, "swiglu_input_gradient", {item_blocks(rows, expert_width / W)},
           swiglu_input_gradient_kernel<W>, rows, expert_width, dhidden_RF, gate_up_R2F, used);
  });
}

}  // namespace holdfast::train::kernels
