// The optimizer's update and elementwise operations of fp32, four elements a thread at a time.
#include <algorithm>
#include <span>
#include <vector>

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
__device__ inline Updated update(const AdamwConstants& c, float decay, float master, float m_now,
                                 float v_now, float gradient) {
  const float g = __fmul_rn(gradient, c.gradient_scale);
  const float m = __fadd_rn(__fmul_rn(c.beta1, m_now), __fmul_rn(__fsub_rn(1.0F, c.beta1), g));
  const float v =
      __fadd_rn(__fmul_rn(c.beta2, v_now), __fmul_rn(__fmul_rn(__fsub_rn(1.0F, c.beta2), g), g));
  const float direction = __fdiv_rn(__fmul_rn(m, c.m_correction),
                                    __fadd_rn(__fsqrt_rn(__fmul_rn(v, c.v_correction)), c.epsilon));
  const float next =
      __fsub_rn(master, __fmul_rn(c.rate, __fadd_rn(direction, __fmul_rn(decay, master))));
  return {next, m, v};
}

// Ranges are worked off in chunks of this many elements, a block each.
constexpr size_t kChunk = size_t{1} << 15;
struct Chunk {
  uint32_t range;
  uint32_t index;  // within the range
};

// A table of ranges, the chunks that they fall into, and what else an operation put behind them.
template <class Range>
struct RangeTable {
  const Range* ranges;
  const Chunk* chunks;
  unsigned chunk_count;
};

template <class Range>
RangeTable<Range> range_table(Cuda& cuda, std::span<const Range> ranges,
                              const std::vector<uint32_t>& after) {
  std::vector<Chunk> chunks;
  for (uint32_t r = 0; r < ranges.size(); ++r)
    for (uint32_t i = 0; i * kChunk < ranges[r].elements; ++i) chunks.push_back({r, i});
  std::vector<unsigned char> bytes;
  const auto append = [&](const void* from, size_t count) {
    const auto* data = static_cast<const unsigned char*>(from);
    bytes.insert(bytes.end(), data, data + count);
  };
  append(ranges.data(), ranges.size_bytes());
  append(chunks.data(), chunks.size() * sizeof(Chunk));
  append(after.data(), after.size() * sizeof(uint32_t));
  const auto* at = static_cast<const unsigned char*>(cuda.impl().table(bytes.data(), bytes.size()));
  return {reinterpret_cast<const Range*>(at),
          reinterpret_cast<const Chunk*>(at + ranges.size_bytes()),
          static_cast<unsigned>(chunks.size())};
}

// f(i, V as a type) for every vector of V of a chunk's [begin, end) and then for each element of the
// rest; `begin` is a multiple of V.
template <unsigned V, class F>
__device__ inline void each_vector_of(size_t begin, size_t end, F f) {
  const size_t vectors_end = begin + (end - begin) / V * V;
#pragma unroll 2
  for (size_t i = begin + size_t{threadIdx.x} * V; i < vectors_end; i += size_t{blockDim.x} * V)
    f(i, std::integral_constant<unsigned, V>{});
  for (size_t i = vectors_end + threadIdx.x; i < end; i += blockDim.x)
    f(i, std::integral_constant<unsigned, 1>{});
}

template <unsigned V>
__device__ inline void update_chunk(const AdamwConstants& constants,
                                    const AdamwRange<Bf16>& range, size_t begin, size_t end) {
  const AdamwTensors<Bf16> t = range.tensors;
  each_vector_of<V>(begin, end, [&](size_t i, auto vector) {
    constexpr unsigned kCount = decltype(vector)::value;
    Floats<kCount> master = load_vector<kCount>(t.master + i);
    Floats<kCount> m = load_vector<kCount>(t.m + i);
    Floats<kCount> v = load_vector<kCount>(t.v + i);
    const Floats<kCount> gradient = load_vector<kCount>(t.gradient + i);
    Halves<kCount> weights;
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) {
      const Updated next =
          update(constants, range.decay, master.at[j], m.at[j], v.at[j], gradient.at[j]);
      master.at[j] = next.master;
      m.at[j] = next.m;
      v.at[j] = next.v;
      weights.at[j] = rounded(next.master);
    }
    store_vector<kCount>(t.next_master + i, master);
    store_vector<kCount>(t.next_m + i, m);
    store_vector<kCount>(t.next_v + i, v);
    if (t.weights != nullptr) *reinterpret_cast<Halves<kCount>*>(t.weights + i) = weights;
  });
}

__device__ inline bool lies_on(size_t bytes, const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// The host's word, read once over the bus when everything before has been done, for all blocks.
__global__ void read_abort_word_kernel(const volatile uint32_t* host, uint32_t* seen) {
  *seen = *host;
}

__global__ void __launch_bounds__(kBlockThreads)
    adamw_kernel(AdamwConstants constants, RangeTable<AdamwRange<Bf16>> table,
                 const uint32_t* aborted) {
  if (*aborted != 0) return;
  const Chunk chunk = table.chunks[blockIdx.x];
  const AdamwRange<Bf16> range = table.ranges[chunk.range];
  const AdamwTensors<Bf16>& t = range.tensors;
  const size_t begin = chunk.index * kChunk;
  const size_t end = min(begin + kChunk, range.elements);
  const bool aligned = lies_on(16, t.master) && lies_on(16, t.m) && lies_on(16, t.v) &&
                       lies_on(16, t.gradient) && lies_on(16, t.next_master) &&
                       lies_on(16, t.next_m) && lies_on(16, t.next_v) && lies_on(8, t.weights);
  if (aligned)
    update_chunk<4>(constants, range, begin, end);
  else
    update_chunk<1>(constants, range, begin, end);
}

__global__ void __launch_bounds__(kBlockThreads)
    sum_squares_chunks_kernel(RangeTable<FloatRange> table, double* partials) {
  __shared__ double shared[kWarpSize];
  const Chunk chunk = table.chunks[blockIdx.x];
  const FloatRange range = table.ranges[chunk.range];
  const size_t begin = chunk.index * kChunk;
  const size_t end = min(begin + kChunk, range.elements);
  double sum = 0;
  const auto add_up = [&](size_t i, auto vector) {
    constexpr unsigned kCount = decltype(vector)::value;
    const Floats<kCount> values = load_vector<kCount>(range.data + i);
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) {
      const double value = values.at[j];
      sum += value * value;
    }
  };
  if (lies_on(16, range.data))
    each_vector_of<4>(begin, end, add_up);
  else
    each_vector_of<1>(begin, end, add_up);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// A block for each range: its chunks stand one after the other.
__global__ void __launch_bounds__(kBlockThreads)
    sum_chunks_kernel(RangeTable<FloatRange> table, const uint32_t* first_chunk,
                      const double* partials, double* sums) {
  __shared__ double shared[kWarpSize];
  const size_t chunks = (table.ranges[blockIdx.x].elements + kChunk - 1) / kChunk;
  double sum = 0;
  for (size_t i = threadIdx.x; i < chunks; i += kBlockThreads)
    sum += partials[first_chunk[blockIdx.x] + i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
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

void sum_squares(Cuda& cuda, std::span<const FloatRange> ranges, double* sums) {
  if (ranges.empty()) return;
  // The table ends with each range's first chunk.
  std::vector<uint32_t> first_chunk;
  uint32_t chunks = 0;
  for (const FloatRange& range : ranges) {
    first_chunk.push_back(chunks);
    chunks += static_cast<uint32_t>((range.elements + kChunk - 1) / kChunk);
  }
  const RangeTable<FloatRange> table = range_table(cuda, ranges, first_chunk);
  double* const partials = cuda.impl().scratch_of<double>(chunks);
  launch(cuda, "sum_squares", {dim3(chunks)}, sum_squares_chunks_kernel, table, partials);
  launch(cuda, "sum_squares", {dim3(static_cast<unsigned>(ranges.size()))}, sum_chunks_kernel,
         table, reinterpret_cast<const uint32_t*>(table.chunks + chunks), partials, sums);
}

void adamw(Cuda& cuda, const AdamwConstants& constants,
           std::span<const AdamwRange<Bf16>> ranges) {
  if (ranges.empty()) return;
  const RangeTable<AdamwRange<Bf16>> table = range_table(cuda, ranges, {});
  uint32_t* const aborted = cuda.impl().scratch_of<uint32_t>(1);
  // Pinned memory has one address on both sides.
  const auto* const abort_word = reinterpret_cast<const volatile uint32_t*>(&cuda.abort_word());
  launch(cuda, "adamw", {dim3(1), 1}, read_abort_word_kernel, abort_word, aborted);
  launch(cuda, "adamw", {dim3(table.chunk_count)}, adamw_kernel, constants, table, aborted);
}

}  // namespace holdfast::train::kernels
