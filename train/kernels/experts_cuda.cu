// The experts of a layer. On Hopper each product is one launch for all of them (grouped_cuda.cuh).
// Elsewhere, and for widths that are no multiples of 8, the numbers of rows are brought to the
// host, which waits for them, and each expert is a product of gemm_cuda.cu; same results within
// rounding.
#include <cstdint>
#include <vector>

#include "train/kernels/device_cuda.cuh"
#include "train/kernels/grouped_cuda.cuh"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train::kernels {
namespace {

// Offsets in an expert's tensors: gate and up are one [2F, D], down is [D, F].
size_t down_offset(ExpertShape shape) { return 2 * shape.expert_width * shape.width; }

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <class... P>
bool can_group(const Cuda& cuda, ExpertShape shape, size_t stride, P... pointers) {
  return cuda.is_hopper() && shape.width % 8 == 0 && shape.expert_width % 8 == 0 &&
         stride % 8 == 0 && (aligned(pointers) && ...);
}

GroupedRows grouped(ExpertRowsCuda rows) {
  return {static_cast<int>(rows.experts), rows.first_row};
}
template <class T>
GroupedOperand<T> rows_of(T* base, size_t width) {
  return {base, static_cast<int64_t>(width), 0};
}
template <class T>
GroupedOperand<T> of_expert(T* base, size_t stride) {
  return {base, 0, static_cast<int64_t>(stride)};
}

// Waits for the device. Empty after an error, which is remembered.
std::vector<uint32_t> first_rows_on_host(Cuda& cuda, ExpertRowsCuda rows) {
  PinnedBuffer<uint32_t>& host = cuda.impl().first_rows;
  host.resize(rows.experts + 1);
  download_bytes(cuda, rows.first_row, host.size() * sizeof(uint32_t), host.data());
  if (!cuda.finish()) return {};
  return {host.data(), host.data() + host.size()};
}

template <class Body>  // (expert, first row, rows)
void for_each_expert(Cuda& cuda, ExpertRowsCuda rows, Body body) {
  const std::vector<uint32_t> first = first_rows_on_host(cuda, rows);
  for (size_t e = 0; e + 1 < first.size(); ++e)
    body(e, size_t{first[e]}, size_t{first[e + 1] - first[e]});
}

constexpr unsigned kZeroThreads = 256;

// gradients of experts without rows := 0, elements of each from its base
__global__ void zero_idle_experts(const uint32_t* first_row, float* base, size_t stride,
                                  size_t elements) {
  const unsigned e = blockIdx.y;
  if (first_row[e] != first_row[e + 1]) return;
  float* at = base + e * stride;
  for (size_t i = blockIdx.x * size_t{kZeroThreads} + threadIdx.x; i < elements;
       i += size_t{gridDim.x} * kZeroThreads)
    at[i] = 0;
}

}  // namespace

void experts(Cuda& cuda, ExpertShape shape, ExpertRowsCuda rows, ExpertTensors<const Bf16*> weights,
             const Bf16* x_RD, Bf16* gate_up_R2F, Bf16* hidden_RF, Bf16* y_RD) {
  if (rows.experts == 0 || rows.rows == 0) return;
  const size_t width = shape.width, hidden = shape.expert_width;
  const Bf16* down = weights.base + down_offset(shape);
  const bool group =
      can_group(cuda, shape, weights.stride, weights.base, x_RD, gate_up_R2F, hidden_RF, y_RD);
  if (group)
    grouped_forward(cuda, "experts", grouped(rows), static_cast<int>(2 * hidden),
                    static_cast<int>(width), rows_of(x_RD, width),
                    of_expert(weights.base, weights.stride), rows_of(gate_up_R2F, 2 * hidden));
  else
    for_each_expert(cuda, rows, [&](size_t e, size_t first, size_t count) {
      linear(cuda, {count, width, 2 * hidden}, x_RD + first * width,
             weights.base + e * weights.stride, nullptr, gate_up_R2F + first * 2 * hidden);
    });
  swiglu(cuda, rows.rows, hidden, gate_up_R2F, hidden_RF, rows.first_row + rows.experts);
  if (group)
    grouped_forward(cuda, "experts", grouped(rows), static_cast<int>(width),
                    static_cast<int>(hidden), rows_of<const Bf16>(hidden_RF, hidden),
                    of_expert(down, weights.stride), rows_of(y_RD, width));
  else
    for_each_expert(cuda, rows, [&](size_t e, size_t first, size_t count) {
      linear(cuda, {count, hidden, width}, hidden_RF + first * hidden, down + e * weights.stride,
             nullptr, y_RD + first * width);
    });
}

void experts_input_gradient(Cuda& cuda, ExpertShape shape, ExpertRowsCuda rows,
                            ExpertTensors<const Bf16*> weights, const Bf16* dy_RD,
                            Bf16* gate_up_R2F, Bf16* scratch_RF, Bf16* dx_RD) {
  if (rows.experts == 0 || rows.rows == 0) return;
  const size_t width = shape.width, hidden = shape.expert_width;
  const Bf16* down = weights.base + down_offset(shape);
  const char* name = "experts_input_gradient";
  const bool group =
      can_group(cuda, shape, weights.stride, weights.base, dy_RD, gate_up_R2F, scratch_RF, dx_RD);
  if (group)
    grouped_input_gradient(cuda, name, grouped(rows), static_cast<int>(hidden),
                           static_cast<int>(width), rows_of(dy_RD, width),
                           of_expert(down, weights.stride), rows_of(scratch_RF, hidden));
  else
    for_each_expert(cuda, rows, [&](size_t e, size_t first, size_t count) {
      linear_input_gradient(cuda, {count, hidden, width}, dy_RD + first * width,
                            down + e * weights.stride, nullptr, scratch_RF + first * hidden);
    });
  swiglu_input_gradient(cuda, rows.rows, hidden, scratch_RF, gate_up_R2F,
                        rows.first_row + rows.experts);
  if (group)
    grouped_input_gradient(cuda, name, grouped(rows), static_cast<int>(width),
                           static_cast<int>(2 * hidden),
                           rows_of<const Bf16>(gate_up_R2F, 2 * hidden),
                           of_expert(weights.base, weights.stride), rows_of(dx_RD, width));
  else
    for_each_expert(cuda, rows, [&](size_t e, size_t first, size_t count) {
      linear_input_gradient(cuda, {count, width, 2 * hidden}, gate_up_R2F + first * 2 * hidden,
                            weights.base + e * weights.stride, nullptr, dx_RD + first * width);
    });
}

void experts_weight_gradient(Cuda& cuda, ExpertShape shape, ExpertRowsCuda rows, const Bf16* x_RD,
                             const Bf16* dgate_up_R2F, const Bf16* dy_RD, const Bf16* hidden_RF,
                             Into into, ExpertTensors<float*> gradients) {
  if (rows.experts == 0) return;
  const size_t width = shape.width, hidden = shape.expert_width;
  float* down = gradients.base + down_offset(shape);
  const char* name = "experts_weight_gradient";
  if (!can_group(cuda, shape, gradients.stride, gradients.base, x_RD, dgate_up_R2F, dy_RD,
                 hidden_RF)) {
    for_each_expert(cuda, rows, [&](size_t e, size_t first, size_t count) {
      linear_weight_gradient(cuda, {count, width, 2 * hidden}, dgate_up_R2F + first * 2 * hidden,
                             x_RD + first * width, into, gradients.base + e * gradients.stride);
      linear_weight_gradient(cuda, {count, hidden, width}, dy_RD + first * width,
                             hidden_RF + first * hidden, into, down + e * gradients.stride);
    });
    return;
  }
  if (into == Into::kOverwrite) {
    const dim3 blocks(64, static_cast<unsigned>(rows.experts));
    zero_idle_experts<<<blocks, kZeroThreads, 0, cuda.impl().stream>>>(
        rows.first_row, gradients.base, gradients.stride, 3 * width * hidden);
    cuda.impl().launched(name);
  }
  const bool add = into == Into::kAdd;
  grouped_weight_gradient(cuda, name, grouped(rows), static_cast<int>(2 * hidden),
                          static_cast<int>(width), rows_of(dgate_up_R2F, 2 * hidden),
                          rows_of(x_RD, width), add, of_expert(gradients.base, gradients.stride));
  grouped_weight_gradient(cuda, name, grouped(rows), static_cast<int>(width),
                          static_cast<int>(hidden), rows_of(dy_RD, width),
                          rows_of(hidden_RF, hidden), add, of_expert(down, gradients.stride));
}

}  // namespace holdfast::train::kernels
