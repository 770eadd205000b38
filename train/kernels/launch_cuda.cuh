// What the memory-bound *_cuda.cu files share: launches, 16-byte accesses of bf16, rows spread over
// a warp, and sums in a fixed order.
//
// A row is a sequence of packs of W elements: W = 8 are 16 bytes, which takes rows whose width is a
// multiple of 8 and pointers that are 16-byte aligned; W = 1 is for all others.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "train/kernels/device_cuda.cuh"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train::kernels {

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kBlockThreads = 256;
inline constexpr unsigned kBlockWarps = kBlockThreads / kWarpSize;
inline constexpr unsigned kWide = 8;  // bf16 elements in 16 bytes
inline constexpr unsigned kAllLanes = 0xffffffff;

// ---- launches ----------------------------------------------------------------------------------

inline unsigned blocks_for(size_t items, size_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

struct Launch {
  dim3 grid;
  unsigned threads = kBlockThreads;
  size_t shared_bytes = 0;
};

// Nothing to do for an empty grid.
template <class... Parameters, class... Arguments>
void launch(Cuda& cuda, const char* operation, const Launch& how, void (*kernel)(Parameters...),
            Arguments... arguments) {
  if (how.grid.x == 0 || how.grid.y == 0) return;
  kernel<<<how.grid, how.threads, how.shared_bytes, cuda.impl().stream>>>(
      static_cast<Parameters>(arguments)...);
  cuda.impl().launched(operation);
}

inline bool is_aligned(size_t bytes, std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) return false;
  return true;
}
inline bool is_wide(size_t width, std::initializer_list<const void*> pointers) {
  return width % kWide == 0 && is_aligned(16, pointers);
}

// Calls f with the elements of a pack, as a type.
template <class F>
void with_pack(bool wide, F f) {
  if (wide)
    f(std::integral_constant<unsigned, kWide>{});
  else
    f(std::integral_constant<unsigned, 1>{});
}

// ---- packs -------------------------------------------------------------------------------------

template <unsigned W>
struct Pack;
template <>
struct Pack<kWide> {
  uint4 bits;
};
template <>
struct Pack<1> {
  uint16_t bits;
};

template <unsigned W>
__device__ inline Pack<W> load_pack(const Bf16* at) {
  return *reinterpret_cast<const Pack<W>*>(at);
}
template <unsigned W>
__device__ inline void store_pack(Bf16* at, const Pack<W>& pack) {
  *reinterpret_cast<Pack<W>*>(at) = pack;
}

__device__ inline void unpack_pair(uint32_t bits, float& low, float& high) {
  low = __uint_as_float(bits << 16);
  high = __uint_as_float(bits & 0xffff0000);
}
__device__ inline uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return uint32_t{__bfloat16_as_ushort(pair.y)} << 16 | __bfloat16_as_ushort(pair.x);
}

__device__ inline void unpack(const Pack<kWide>& pack, float (&values)[kWide]) {
  unpack_pair(pack.bits.x, values[0], values[1]);
  unpack_pair(pack.bits.y, values[2], values[3]);
  unpack_pair(pack.bits.z, values[4], values[5]);
  unpack_pair(pack.bits.w, values[6], values[7]);
}
__device__ inline void unpack(const Pack<1>& pack, float (&values)[1]) {
  values[0] = __uint_as_float(uint32_t{pack.bits} << 16);
}
__device__ inline Pack<kWide> pack(const float (&values)[kWide]) {
  return {make_uint4(pack_pair(values[0], values[1]), pack_pair(values[2], values[3]),
                     pack_pair(values[4], values[5]), pack_pair(values[6], values[7]))};
}
__device__ inline Pack<1> pack(const float (&values)[1]) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(values[0]))};
}

// W floats; those of 8 lie on 16 bytes.
__device__ inline void load_floats(const float* at, float (&values)[kWide]) {
  const float4 low = *reinterpret_cast<const float4*>(at);
  const float4 high = *reinterpret_cast<const float4*>(at + 4);
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}
__device__ inline void load_floats(const float* at, float (&values)[1]) { values[0] = *at; }
__device__ inline void store_floats(float* at, const float (&values)[kWide]) {
  *reinterpret_cast<float4*>(at) = make_float4(values[0], values[1], values[2], values[3]);
  *reinterpret_cast<float4*>(at + 4) = make_float4(values[4], values[5], values[6], values[7]);
}
__device__ inline void store_floats(float* at, const float (&values)[1]) { *at = values[0]; }

// ---- one warp per row --------------------------------------------------------------------------

__device__ inline unsigned lane() { return threadIdx.x % kWarpSize; }
// Blocks of kBlockThreads.
__device__ inline size_t row_of_warp() {
  return size_t{blockIdx.x} * kBlockWarps + threadIdx.x / kWarpSize;
}
inline dim3 warps_for(size_t rows) { return {blocks_for(rows, kBlockWarps)}; }

// f(i, j) for this lane's packs i; j counts them. kPacks packs a lane hold the row and j is a
// constant after unrolling; 0 is for rows of any width.
template <unsigned kPacks, class F>
__device__ inline void each_pack(unsigned packs, F f) {
  if constexpr (kPacks > 0) {
#pragma unroll
    for (unsigned j = 0; j < kPacks; ++j) {
      const unsigned i = lane() + j * kWarpSize;
      if (i < packs) f(i, j);
    }
  } else {
    for (unsigned i = lane(); i < packs; i += kWarpSize) f(i, 0U);
  }
}

// A row in the registers of a warp, or, where it is too wide, read again each time.
template <unsigned W, unsigned kPacksPerLane>
struct WarpRow {
  static constexpr unsigned kWidth = W;
  static constexpr unsigned kPacks = kPacksPerLane;

  __device__ WarpRow(const Bf16* row, unsigned packs) : row_(row) {
    if constexpr (kPacks > 0)
      each_pack<kPacks>(packs,
                        [&](unsigned i, unsigned j) { kept_[j] = load_pack<W>(row + i * W); });
  }
  __device__ void get(unsigned i, unsigned j, float (&values)[W]) const {
    if constexpr (kPacks > 0)
      unpack(kept_[j], values);
    else
      unpack(load_pack<W>(row_ + i * W), values);
  }

 private:
  const Bf16* row_;
  Pack<W> kept_[kPacks == 0 ? 1 : kPacks];
};

// Calls f with the WarpRow for this width, as a type.
template <class F>
void with_warp_row(size_t width, bool wide, F f) {
  const size_t packs_per_lane = (width / kWide + kWarpSize - 1) / kWarpSize;
  if (!wide)
    f(std::type_identity<WarpRow<1, 0>>{});
  else if (packs_per_lane <= 4)
    f(std::type_identity<WarpRow<kWide, 4>>{});
  else if (packs_per_lane <= 8)
    f(std::type_identity<WarpRow<kWide, 8>>{});
  else
    f(std::type_identity<WarpRow<kWide, 0>>{});
}

// ---- one thread per pack -----------------------------------------------------------------------

struct RowItem {
  size_t row;
  unsigned item;
  bool valid;
};

// `items` of each row over blocks of kBlockThreads: several short rows or a part of a long one.
inline dim3 item_blocks(size_t rows, size_t items) {
  if (items == 0) return {0};
  if (items < kBlockThreads) return {blocks_for(rows, kBlockThreads / items)};
  return {static_cast<unsigned>(rows * blocks_for(items, kBlockThreads))};
}
__device__ inline RowItem row_item(size_t rows, unsigned items) {
  if (items < kBlockThreads) {
    const unsigned rows_per_block = kBlockThreads / items;
    const unsigned row_in_block = threadIdx.x / items;
    const size_t row = size_t{blockIdx.x} * rows_per_block + row_in_block;
    return {row, threadIdx.x % items, row_in_block < rows_per_block && row < rows};
  }
  const unsigned blocks_per_row = (items + kBlockThreads - 1) / kBlockThreads;
  const size_t row = blockIdx.x / blocks_per_row;
  const unsigned item = blockIdx.x % blocks_per_row * kBlockThreads + threadIdx.x;
  return {row, item, item < items && row < rows};
}

// ---- sums --------------------------------------------------------------------------------------

// Every lane gets the same value, bit by bit.
template <class T>
__device__ inline T warp_sum(T value) {
#pragma unroll
  for (unsigned step = kWarpSize / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
__device__ inline float warp_max(float value) {
#pragma unroll
  for (unsigned step = kWarpSize / 2; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

// For blocks of whole warps; `shared` has room for 32 and is free again when all threads have got
// their value and passed another barrier.
template <class T>
__device__ inline T block_sum(T value, T* shared) {
  value = warp_sum(value);
  if (lane() == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  return warp_sum(lane() < blockDim.x / kWarpSize ? shared[lane()] : T{});
}

}  // namespace holdfast::train::kernels
