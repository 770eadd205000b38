// Cross-entropy: one block per row, which is read once, kept in shared memory where it fits, and
// written once as its gradient.
#include <algorithm>
#include <cmath>

#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

constexpr unsigned kMostThreads = 512;
constexpr unsigned kInFlight = 4;  // packs that a thread loads before it uses them
constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLowest = -2.0e38F;  // finite, also times log2(e): no infinity less infinity

// 2^x; results below the least normal float become zero.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// sum of exp(x - largest) for the x seen so far.
struct Softmax {
  float largest = kLowest;
  float sum = 0;

  template <unsigned W>
  __device__ void add(const float (&x)[W]) {
    float most = x[0];
#pragma unroll
    for (unsigned w = 1; w < W; ++w) most = fmaxf(most, x[w]);
    if (most > largest) {
      sum *= exp2_fast((largest - most) * kLog2E);
      largest = most;
    }
    const float shift = -largest * kLog2E;
#pragma unroll
    for (unsigned w = 0; w < W; ++w) sum += exp2_fast(fmaf(x[w], kLog2E, shift));
  }
};

// kHeld: the row stays in shared memory, each thread's packs for itself. A gradient without it
// reads the row again.
template <unsigned W, bool kHeld>
__global__ void __launch_bounds__(kMostThreads, 2)
    cross_entropy_kernel(unsigned width, const int32_t* targets_N, bool gradient, float per_row,
                         Bf16* logits_NV, float* losses_N) {
  extern __shared__ uint4 held_row[];
  __shared__ float shared_max[kWarpSize], shared_sum[kWarpSize];
  Pack<W>* const held = reinterpret_cast<Pack<W>*>(held_row);
  Bf16* const row = logits_NV + size_t{blockIdx.x} * width;
  const unsigned packs = width / W;
  const unsigned target = static_cast<unsigned>(targets_N[blockIdx.x]);
  // Before any thread writes: the barriers below are between.
  const float target_logit = __uint_as_float(uint32_t{row[target].bits} << 16);

  Softmax softmax;
  for (unsigned base = threadIdx.x; base < packs; base += kInFlight * blockDim.x) {
    Pack<W> loaded[kInFlight];
#pragma unroll
    for (unsigned j = 0; j < kInFlight; ++j) {
      const unsigned i = base + j * blockDim.x;
      if (i < packs) loaded[j] = load_pack<W>(row + i * W);
    }
#pragma unroll
    for (unsigned j = 0; j < kInFlight; ++j) {
      const unsigned i = base + j * blockDim.x;
      if (i >= packs) break;
      if constexpr (kHeld) held[i] = loaded[j];
      float x[W];
      unpack(loaded[j], x);
      softmax.add(x);
    }
  }

  const unsigned warps = blockDim.x / kWarpSize;
  float largest = warp_max(softmax.largest);
  if (lane() == 0) shared_max[threadIdx.x / kWarpSize] = largest;
  __syncthreads();
  largest = warp_max(lane() < warps ? shared_max[lane()] : kLowest);
  const float sum =
      block_sum(softmax.sum * exp2_fast((softmax.largest - largest) * kLog2E), shared_sum);
  const float logsumexp = largest + logf(sum);
  // From the logit, not from the probability, which may have become zero.
  if (threadIdx.x == 0) losses_N[blockIdx.x] = logsumexp - target_logit;
  if (!gradient) return;

  const float shift = -largest * kLog2E;
  const float scale = per_row / sum;
#pragma unroll 2
  for (unsigned i = threadIdx.x; i < packs; i += blockDim.x) {
    float x[W];
    if constexpr (kHeld)
      unpack(held[i], x);
    else
      unpack(load_pack<W>(row + i * W), x);
#pragma unroll
    for (unsigned w = 0; w < W; ++w) x[w] = scale * exp2_fast(fmaf(x[w], kLog2E, shift));
    if (i == target / W) {
#pragma unroll
      for (unsigned w = 0; w < W; ++w)
        if (w == target % W) x[w] -= per_row;
    }
    store_pack(row + i * W, pack(x));
  }
}

constexpr unsigned kMeanThreads = 1024;

__global__ void __launch_bounds__(kMeanThreads)
    mean_kernel(size_t rows, const float* losses_N, double* mean) {
  __shared__ double shared[kWarpSize];
  double sum = 0;
#pragma unroll 4
  for (size_t n = threadIdx.x; n < rows; n += kMeanThreads) sum += static_cast<double>(losses_N[n]);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *mean = rows == 0 ? 0.0 : sum / static_cast<double>(rows);
}

constexpr size_t kSharedWithoutAsking = 40 << 10;

// Whether a block may have `bytes` of shared memory, which is asked for where that takes asking.
template <class Kernel>
bool may_hold(Cuda& cuda, Kernel* kernel, size_t bytes) {
  if (bytes <= kSharedWithoutAsking) return true;
  cudaFuncAttributes attributes{};
  int most = 0;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess)
    error =
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, cuda.impl().ordinal);
  if (error == cudaSuccess) {
    if (bytes + attributes.sharedSizeBytes > static_cast<size_t>(most)) return false;
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes));
  }
  if (error == cudaSuccess) return true;
  cuda.impl().launched("cross_entropy");
  return false;
}

}  // namespace

void cross_entropy(Cuda& cuda, RowShape shape, const int32_t* targets_N,
                   std::optional<double> gradient_scale, Bf16* logits_NV, float* losses_N,
                   double* mean) {
  const double per_row =
      shape.rows == 0 ? 0 : gradient_scale.value_or(0) / static_cast<double>(shape.rows);
  with_pack(is_wide(shape.width, {logits_NV}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    const unsigned warps = blocks_for(shape.width / W, kWarpSize);
    Launch how = {dim3(static_cast<unsigned>(shape.rows)),
                  std::clamp(warps * kWarpSize, kWarpSize, kMostThreads)};
    const size_t row_bytes = shape.width * sizeof(Bf16);
    const bool held = gradient_scale && may_hold(cuda, cross_entropy_kernel<W, true>, row_bytes);
    if (held) how.shared_bytes = row_bytes;
    launch(cuda, "cross_entropy", how,
           held ? cross_entropy_kernel<W, true> : cross_entropy_kernel<W, false>, shape.width,
           targets_N, gradient_scale.has_value(), per_row, logits_NV, losses_N);
  });
  launch(cuda, "cross_entropy", {dim3(1), kMeanThreads}, mean_kernel, shape.rows, losses_N, mean);
}

}  // namespace holdfast::train::kernels
