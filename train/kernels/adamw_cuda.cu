// The optimizer's update and elementwise operations of fp32, four elements a thread at a time.
#include <algorithm>

#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

// V consecutive floats: 4 where every pointer is 16-byte aligned, else 1.
template <unsigned V>
struct alignas(V * sizeof(float)) Floats {
  float at[V];
};
template <unsigned V>
struct alignas(V * sizeof(Bf16)) Halves {
  Bf16 at[V];
};

template <unsigned V>
__device__ inline Floats<V> load_vector(const float* at) {
  return *reinterpret_cast<const Floats<V>*>(at);
}
template <unsigned V>
__device__ inline void store_vector(float* at, const Floats<V>& values) {
  *reinterpret_cast<Floats<V>*>(at) = values;
}
__device__ inline Bf16 rounded(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}

// f(i, V as a type) for every vector of V and then for each element of the rest, over a grid of any
// size.
template <unsigned V, class F>
__device__ inline void each_vector(size_t elements, F f) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  const size_t first = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const size_t vectors = elements / V;
  for (size_t i = first; i < vectors; i += stride) f(i * V, std::integral_constant<unsigned, V>{});
  for (size_t i = vectors * V + first; i < elements; i += stride)
    f(i, std::integral_constant<unsigned, 1>{});
}

// One element exactly as train/optimizer/adamw.cpp: every operation rounded, none contracted.
struct Updated {
  float master, m, v;
};
__device__ inline Updated update(const AdamwConstants& c, float master, float m_now, float v_now,
                                 float gradient) {
  const float g = __fmul_rn(gradient, c.gradient_scale);
  const float m = __fadd_rn(__fmul_rn(c.beta1, m_now), __fmul_rn(__fsub_rn(1.0F, c.beta1), g));
  const float v =
      __fadd_rn(__fmul_rn(c.beta2, v_now), __fmul_rn(__fmul_rn(__fsub_rn(1.0F, c.beta2), g), g));
  const float direction = __fdiv_rn(__fmul_rn(m, c.m_correction),
                                    __fadd_rn(__fsqrt_rn(__fmul_rn(v, c.v_correction)), c.epsilon));
  const float next =
      __fsub_rn(master, __fmul_rn(c.rate, __fadd_rn(direction, __fmul_rn(c.decay, master))));
  return {next, m, v};
}

template <unsigned V, bool kWeights>
__global__ void __launch_bounds__(kBlockThreads)
    adamw_kernel(size_t elements, AdamwConstants constants, AdamwTensors<Bf16> tensors,
                 const volatile uint32_t* abort_word) {
  // One read over the bus for each block.
  if (__syncthreads_or(threadIdx.x == 0 && *abort_word != 0)) return;
  each_vector<V>(elements, [&](size_t i, auto vector) {
    constexpr unsigned kCount = decltype(vector)::value;
    Floats<kCount> master = load_vector<kCount>(tensors.master + i);
    Floats<kCount> m = load_vector<kCount>(tensors.m + i);
    Floats<kCount> v = load_vector<kCount>(tensors.v + i);
    const Floats<kCount> gradient = load_vector<kCount>(tensors.gradient + i);
    Halves<kCount> weights;
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) {
      const Updated next = update(constants, master.at[j], m.at[j], v.at[j], gradient.at[j]);
      master.at[j] = next.master;
      m.at[j] = next.m;
      v.at[j] = next.v;
      weights.at[j] = rounded(next.master);
    }
    store_vector<kCount>(tensors.next_master + i, master);
    store_vector<kCount>(tensors.next_m + i, m);
    store_vector<kCount>(tensors.next_v + i, v);
    if constexpr (kWeights) *reinterpret_cast<Halves<kCount>*>(tensors.weights + i) = weights;
  });
}

template <unsigned V>
__global__ void __launch_bounds__(kBlockThreads)
    convert_kernel(size_t elements, const float* from, Bf16* to) {
  each_vector<V>(elements, [&](size_t i, auto vector) {
    constexpr unsigned kCount = decltype(vector)::value;
    const Floats<kCount> values = load_vector<kCount>(from + i);
    Halves<kCount> halves;
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) halves.at[j] = rounded(values.at[j]);
    *reinterpret_cast<Halves<kCount>*>(to + i) = halves;
  });
}

template <unsigned V>
__global__ void __launch_bounds__(kBlockThreads)
    add_kernel(size_t elements, const float* from, float* to) {
  each_vector<V>(elements, [&](size_t i, auto vector) {
    constexpr unsigned kCount = decltype(vector)::value;
    const Floats<kCount> more = load_vector<kCount>(from + i);
    Floats<kCount> sum = load_vector<kCount>(to + i);
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) sum.at[j] += more.at[j];
    store_vector<kCount>(to + i, sum);
  });
}

template <unsigned V>
__global__ void __launch_bounds__(kBlockThreads)
    sum_squares_partials_kernel(size_t elements, const float* from, double* partials) {
  __shared__ double shared[kWarpSize];
  double sum = 0;
  each_vector<V>(elements, [&](size_t i, auto vector) {
    constexpr unsigned kCount = decltype(vector)::value;
    const Floats<kCount> values = load_vector<kCount>(from + i);
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) {
      const double value = values.at[j];
      sum += value * value;
    }
  });
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kBlockThreads)
    sum_partials_kernel(unsigned count, const double* partials, double* total) {
  __shared__ double shared[kWarpSize];
  double sum = 0;
  for (unsigned i = threadIdx.x; i < count; i += kBlockThreads) sum += partials[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *total = sum;
}

constexpr size_t kVector = 4;

// A thread per vector, in at most `most` blocks.
unsigned vector_blocks(size_t elements, size_t most) {
  return static_cast<unsigned>(
      std::min((elements + kVector * kBlockThreads - 1) / (kVector * kBlockThreads), most));
}

template <class F>
void with_vector(bool aligned, F f) {
  if (aligned)
    f(std::integral_constant<unsigned, kVector>{});
  else
    f(std::integral_constant<unsigned, 1>{});
}

constexpr size_t kMostBlocks = size_t{1} << 20;

}  // namespace

void convert(Cuda& cuda, const float* from, size_t elements, Bf16* to) {
  with_vector(is_aligned(16, {from}) && is_aligned(8, {to}), [&](auto vector) {
    launch(cuda, "convert", {dim3(vector_blocks(elements, kMostBlocks))},
           convert_kernel<decltype(vector)::value>, elements, from, to);
  });
}

void add(Cuda& cuda, const float* from, size_t elements, float* to) {
  with_vector(is_aligned(16, {from, to}), [&](auto vector) {
    launch(cuda, "add", {dim3(vector_blocks(elements, kMostBlocks))},
           add_kernel<decltype(vector)::value>, elements, from, to);
  });
}

void sum_squares(Cuda& cuda, const float* from, size_t elements, double* sum) {
  // The number of blocks, and with it the order of the sum, is a function of the size only.
  constexpr size_t kPartials = 1024;
  const unsigned blocks = vector_blocks(elements, kPartials);
  double* const partials = cuda.impl().scratch_of<double>(kPartials);
  with_vector(is_aligned(16, {from}), [&](auto vector) {
    launch(cuda, "sum_squares", {dim3(blocks)},
           sum_squares_partials_kernel<decltype(vector)::value>, elements, from, partials);
  });
  launch(cuda, "sum_squares", {dim3(1)}, sum_partials_kernel, blocks, partials, sum);
}

void adamw(Cuda& cuda, size_t elements, const AdamwConstants& constants,
           const AdamwTensors<Bf16>& tensors) {
  const AdamwTensors<Bf16>& t = tensors;
  const bool aligned =
      is_aligned(16, {t.master, t.m, t.v, t.gradient, t.next_master, t.next_m, t.next_v}) &&
      is_aligned(8, {t.weights});
  // Few enough blocks that reading the abort word costs nothing.
  constexpr size_t kBlocksPerMultiprocessor = 16;
  const Launch how = {dim3(vector_blocks(
      elements, kBlocksPerMultiprocessor * static_cast<size_t>(cuda.impl().multiprocessors)))};
  // Pinned memory has one address on both sides.
  const auto* const abort_word = reinterpret_cast<const volatile uint32_t*>(&cuda.abort_word());
  with_vector(aligned, [&](auto vector) {
    constexpr unsigned V = decltype(vector)::value;
    launch(cuda, "adamw", how,
           t.weights != nullptr ? adamw_kernel<V, true> : adamw_kernel<V, false>, elements,
           constants, tensors, abort_word);
  });
}

}  // namespace holdfast::train::kernels
