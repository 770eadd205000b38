// RMSNorm: one warp per row, kept in registers; the weights' gradient in two stages.
#include <algorithm>

#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

template <class Row>
__global__ void __launch_bounds__(kBlockThreads)
    rms_norm_kernel(size_t rows, unsigned width, const Bf16* x_ND, const Bf16* weight_D,
                    float epsilon, float* inverse_rms_N, Bf16* y_ND) {
  constexpr unsigned W = Row::kWidth;
  const size_t n = row_of_warp();
  if (n >= rows) return;
  const unsigned packs = width / W;
  const Row x_row(x_ND + n * width, packs);
  float squares = 0;
  each_pack<Row::kPacks>(packs, [&](unsigned i, unsigned j) {
    float x[W];
    x_row.get(i, j, x);
#pragma unroll
    for (unsigned w = 0; w < W; ++w) squares += x[w] * x[w];
  });
  const float mean_square = warp_sum(squares) / static_cast<float>(width);
  const float inverse_rms = 1.0F / sqrtf(mean_square + epsilon);
  if (lane() == 0) inverse_rms_N[n] = inverse_rms;
  Bf16* y_row = y_ND + n * width;
  each_pack<Row::kPacks>(packs, [&](unsigned i, unsigned j) {
    float x[W], weight[W];
    x_row.get(i, j, x);
    unpack(load_pack<W>(weight_D + i * W), weight);
#pragma unroll
    for (unsigned w = 0; w < W; ++w) x[w] = x[w] * inverse_rms * weight[w];
    store_pack(y_row + i * W, pack(x));
  });
}

template <class Row>
__global__ void __launch_bounds__(kBlockThreads)
    rms_norm_input_gradient_kernel(size_t rows, unsigned width, const Bf16* dy_ND, const Bf16* x_ND,
                                   const Bf16* weight_D, const float* inverse_rms_N, Bf16* dx_ND) {
  constexpr unsigned W = Row::kWidth;
  const size_t n = row_of_warp();
  if (n >= rows) return;
  const unsigned packs = width / W;
  Bf16* const out = dx_ND + n * width;
  const Row dy_row(dy_ND + n * width, packs);
  const Row x_row(x_ND + n * width, packs);
  const Row dx_row(out, packs);
  const float r = inverse_rms_N[n];
  float along_x = 0;
  each_pack<Row::kPacks>(packs, [&](unsigned i, unsigned j) {
    float dy[W], x[W], weight[W];
    dy_row.get(i, j, dy);
    x_row.get(i, j, x);
    unpack(load_pack<W>(weight_D + i * W), weight);
#pragma unroll
    for (unsigned w = 0; w < W; ++w) along_x += dy[w] * weight[w] * x[w];
  });
  const float pull = warp_sum(along_x) * r * r * r / static_cast<float>(width);
  each_pack<Row::kPacks>(packs, [&](unsigned i, unsigned j) {
    float dy[W], x[W], dx[W], weight[W];
    dy_row.get(i, j, dy);
    x_row.get(i, j, x);
    dx_row.get(i, j, dx);
    unpack(load_pack<W>(weight_D + i * W), weight);
#pragma unroll
    for (unsigned w = 0; w < W; ++w) dx[w] += dy[w] * weight[w] * r - x[w] * pull;
    store_pack(out + i * W, pack(dx));
  });
}

// A block sums `rows_per_block` rows of kWarpSize packs of columns: warp w those of w, w + 8, ...
template <unsigned W>
__global__ void __launch_bounds__(kBlockThreads)
    rms_norm_weight_partials_kernel(size_t rows, unsigned width, unsigned rows_per_block,
                                    const Bf16* dy_ND, const Bf16* x_ND, const float* inverse_rms_N,
                                    float* partials_PD) {
  __shared__ float sums[kBlockWarps][kWarpSize * W];
  const unsigned warp = threadIdx.x / kWarpSize;
  const unsigned column = (blockIdx.x * kWarpSize + lane()) * W;
  float sum[W] = {};
  if (column < width) {
    const size_t begin = size_t{blockIdx.y} * rows_per_block;
    const size_t end = min(begin + rows_per_block, rows);
#pragma unroll 4
    for (size_t n = begin + warp; n < end; n += kBlockWarps) {
      float dy[W], x[W];
      unpack(load_pack<W>(dy_ND + n * width + column), dy);
      unpack(load_pack<W>(x_ND + n * width + column), x);
      const float r = inverse_rms_N[n];
#pragma unroll
      for (unsigned w = 0; w < W; ++w) sum[w] += dy[w] * x[w] * r;
    }
  }
  // Element w of a lane at w * 32 + lane: a bank for each lane.
#pragma unroll
  for (unsigned w = 0; w < W; ++w) sums[warp][w * kWarpSize + lane()] = sum[w];
  __syncthreads();
  for (unsigned at = threadIdx.x; at < kWarpSize * W; at += kBlockThreads) {
    const unsigned to = (blockIdx.x * kWarpSize + at % kWarpSize) * W + at / kWarpSize;
    if (to >= width) continue;
    float total = 0;
#pragma unroll
    for (unsigned other = 0; other < kBlockWarps; ++other) total += sums[other][at];
    partials_PD[size_t{blockIdx.y} * width + to] = total;
  }
}

// A block sums the partials of 32 columns: warp w those of w, w + 8, ...
__global__ void __launch_bounds__(kBlockThreads)
    rms_norm_weight_sum_kernel(unsigned partials, unsigned width, const float* partials_PD,
                               bool add, float* dweight_D) {
  __shared__ float sums[kBlockWarps][kWarpSize];
  const unsigned warp = threadIdx.x / kWarpSize;
  const unsigned column = blockIdx.x * kWarpSize + lane();
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (unsigned p = warp; p < partials; p += kBlockWarps)
      sum += partials_PD[size_t{p} * width + column];
  }
  sums[warp][lane()] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  float total = 0;
#pragma unroll
  for (unsigned other = 0; other < kBlockWarps; ++other) total += sums[other][lane()];
  dweight_D[column] = add ? dweight_D[column] + total : total;
}

}  // namespace

void rms_norm(Cuda& cuda, RowShape shape, const Bf16* x_ND, const Bf16* weight_D, double epsilon,
              float* inverse_rms_N, Bf16* y_ND) {
  with_warp_row(shape.width, is_wide(shape.width, {x_ND, weight_D, y_ND}), [&](auto row) {
    using Row = typename decltype(row)::type;
    launch(cuda, "rms_norm", {warps_for(shape.rows)}, rms_norm_kernel<Row>, shape.rows, shape.width,
           x_ND, weight_D, epsilon, inverse_rms_N, y_ND);
  });
}

void rms_norm_input_gradient(Cuda& cuda, RowShape shape, const Bf16* dy_ND, const Bf16* x_ND,
                             const Bf16* weight_D, const float* inverse_rms_N, Bf16* dx_ND) {
  with_warp_row(shape.width, is_wide(shape.width, {dy_ND, x_ND, weight_D, dx_ND}), [&](auto row) {
    using Row = typename decltype(row)::type;
    launch(cuda, "rms_norm_input_gradient", {warps_for(shape.rows)},
           rms_norm_input_gradient_kernel<Row>, shape.rows, shape.width, dy_ND, x_ND, weight_D,
           inverse_rms_N, dx_ND);
  });
}

void rms_norm_weight_gradient(Cuda& cuda, RowShape shape, const Bf16* dy_ND, const Bf16* x_ND,
                              const float* inverse_rms_N, Into into, float* dweight_D) {
  // Functions of the shape only: the order of a sum does not depend on the device.
  constexpr size_t kRowsPerBlock = 128, kMostBlocks = 1024;
  const size_t rows_per_block =
      std::max(kRowsPerBlock, (shape.rows + kMostBlocks - 1) / kMostBlocks);
  const unsigned partials = blocks_for(shape.rows, rows_per_block);
  if (partials > 0) {
    float* const partials_PD = cuda.impl().scratch_of<float>(partials * shape.width);
    with_pack(is_wide(shape.width, {dy_ND, x_ND}), [&](auto pack_width) {
      constexpr unsigned W = decltype(pack_width)::value;
      launch(cuda, "rms_norm_weight_gradient",
             {dim3(blocks_for(shape.width, size_t{kWarpSize} * W), partials)},
             rms_norm_weight_partials_kernel<W>, shape.rows, shape.width, rows_per_block, dy_ND,
             x_ND, inverse_rms_N, partials_PD);
    });
    launch(cuda, "rms_norm_weight_gradient", {dim3(blocks_for(shape.width, kWarpSize))},
           rms_norm_weight_sum_kernel, partials, shape.width, partials_PD, into == Into::kAdd,
           dweight_D);
  } else if (into == Into::kOverwrite) {
    zero(cuda, dweight_D, shape.width);
  }
}

}  // namespace holdfast::train::kernels
