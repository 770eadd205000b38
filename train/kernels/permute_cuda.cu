// Dispatch and combine: one warp per row or token, up to four packs of each row in flight at a
// time.
#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

constexpr unsigned kInFlight = 4;  // packs of one row that a lane loads before it uses them

// One warp: each lane scans every 32nd count with the sum so far.
__global__ void first_rows_kernel(unsigned experts, const uint32_t* counts_E,
                                  const uint32_t* most_E, uint32_t* first_row) {
  uint32_t before = 0;
  for (unsigned base = 0; base <= experts; base += kWarpSize) {
    const unsigned e = base + lane();
    uint32_t count = e < experts ? counts_E[e] : 0;
    if (most_E != nullptr && e < experts) count = min(count, most_E[e]);
    uint32_t through = count;
#pragma unroll
    for (unsigned step = 1; step < kWarpSize; step *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, through, step);
      if (lane() >= step) through += other;
    }
    if (e <= experts) first_row[e] = before + through - count;
    before += __shfl_sync(kAllLanes, through, kWarpSize - 1);
  }
}

__global__ void place_choices_kernel(size_t choices, unsigned top_k, const uint32_t* choices_NK,
                                     const uint32_t* rank_NK, const uint32_t* first_row,
                                     uint32_t* row_of_choice_NK, uint32_t* token_of_row_R) {
  const size_t i = size_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (i >= choices) return;
  const uint32_t first = first_row[choices_NK[i]];
  const bool kept = rank_NK[i] < first_row[choices_NK[i] + 1] - first;
  row_of_choice_NK[i] = kept ? first + rank_NK[i] : kNoRow;
  if (kept) token_of_row_R[first + rank_NK[i]] = static_cast<uint32_t>(i / top_k);
}

template <unsigned W>
__device__ inline void clear_row(Bf16* row, unsigned packs) {
  for (unsigned i = lane(); i < packs; i += kWarpSize) store_pack(row + i * W, Pack<W>{});
}

template <unsigned W>
__global__ void __launch_bounds__(kBlockThreads)
    clear_rows_kernel(size_t rows, unsigned width, const uint32_t* index_R, Bf16* out) {
  const size_t r = row_of_warp();
  if (r < rows && index_R[r] == kNoRow) clear_row<W>(out + r * width, width / W);
}

// Row index[r] to row r, or the other way. From nowhere come zeros; what goes nowhere stays.
template <unsigned W, bool kGather>
__global__ void __launch_bounds__(kBlockThreads)
    move_rows_kernel(size_t rows, unsigned width, const uint32_t* index_R, const Bf16* in,
                     Bf16* out) {
  const size_t r = row_of_warp();
  if (r >= rows) return;
  const size_t other = index_R[r];
  if (other == kNoRow) {
    if constexpr (kGather) clear_row<W>(out + r * width, width / W);
    return;
  }
  const Bf16* const from = in + (kGather ? other : r) * width;
  Bf16* const to = out + (kGather ? r : other) * width;
  const unsigned packs = width / W;
  for (unsigned base = 0; base < packs; base += kInFlight * kWarpSize) {
    Pack<W> kept[kInFlight];
    const unsigned left = packs - base;
    each_pack<kInFlight>(
        left, [&](unsigned i, unsigned j) { kept[j] = load_pack<W>(from + (base + i) * W); });
    each_pack<kInFlight>(left,
                         [&](unsigned i, unsigned j) { store_pack(to + (base + i) * W, kept[j]); });
  }
}

// y = x + sum_k gate_k rows[row_k]; without kGates and x, the sum of the rows.
template <unsigned W, bool kGates>
__global__ void __launch_bounds__(kBlockThreads)
    sum_rows_kernel(size_t tokens, unsigned top_k, unsigned width, const uint32_t* row_NK,
                    const float* gates_NK, const Bf16* rows_RD, const Bf16* x_ND, Bf16* y_ND) {
  const size_t n = row_of_warp();
  if (n >= tokens) return;
  const unsigned packs = width / W;
  for (unsigned base = 0; base < packs; base += kInFlight * kWarpSize) {
    const unsigned left = packs - base;
    float sum[kInFlight][W] = {};
    if constexpr (kGates) {
      each_pack<kInFlight>(left, [&](unsigned i, unsigned j) {
        unpack(load_pack<W>(x_ND + n * width + (base + i) * W), sum[j]);
      });
    }
#pragma unroll 2
    for (unsigned k = 0; k < top_k; ++k) {
      const size_t row_of_choice = row_NK[n * top_k + k];
      if (row_of_choice == kNoRow) continue;
      const Bf16* const row = rows_RD + row_of_choice * width + base * W;
      const float gate = kGates ? gates_NK[n * top_k + k] : 1.0F;
      Pack<W> kept[kInFlight];
      each_pack<kInFlight>(left,
                           [&](unsigned i, unsigned j) { kept[j] = load_pack<W>(row + i * W); });
      each_pack<kInFlight>(left, [&](unsigned, unsigned j) {
        float values[W];
        unpack(kept[j], values);
#pragma unroll
        for (unsigned w = 0; w < W; ++w) sum[j][w] += gate * values[w];
      });
    }
    each_pack<kInFlight>(left, [&](unsigned i, unsigned j) {
      store_pack(y_ND + n * width + (base + i) * W, pack(sum[j]));
    });
  }
}

// One pass over dy and the rows of a token: dy stays in registers for all its choices.
template <class Row>
__global__ void __launch_bounds__(kBlockThreads)
    combine_input_gradient_kernel(size_t tokens, unsigned top_k, unsigned width,
                                  const uint32_t* row_NK, const float* gates_NK,
                                  const Bf16* rows_RD, const Bf16* dy_ND, Bf16* drows_RD,
                                  float* dgates_NK) {
  constexpr unsigned W = Row::kWidth;
  const size_t n = row_of_warp();
  if (n >= tokens) return;
  const unsigned packs = width / W;
  const Row dy_row(dy_ND + n * width, packs);
  for (unsigned k = 0; k < top_k; ++k) {
    const size_t choice = n * top_k + k;
    if (row_NK[choice] == kNoRow) {
      if (lane() == 0) dgates_NK[choice] = 0;
      continue;
    }
    const size_t offset = size_t{row_NK[choice]} * width;
    const float gate = gates_NK[choice];
    const Row row(rows_RD + offset, packs);
    float dot = 0;
    each_pack<Row::kPacks>(packs, [&](unsigned i, unsigned j) {
      float dy[W], values[W];
      dy_row.get(i, j, dy);
      row.get(i, j, values);
#pragma unroll
      for (unsigned w = 0; w < W; ++w) {
        dot += dy[w] * values[w];
        dy[w] *= gate;
      }
      store_pack(drows_RD + offset + i * W, pack(dy));
    });
    dot = warp_sum(dot);
    if (lane() == 0) dgates_NK[choice] = dot;
  }
}

template <bool kGather>
void move_rows(Cuda& cuda, const char* operation, RowShape shape, const uint32_t* index_R,
               const Bf16* in, Bf16* out) {
  with_pack(is_wide(shape.width, {in, out}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    launch(cuda, operation, {warps_for(shape.rows)}, move_rows_kernel<W, kGather>, shape.rows,
           shape.width, index_R, in, out);
  });
}

}  // namespace

void first_rows(Cuda& cuda, size_t experts, const uint32_t* counts_E, const uint32_t* most_E,
                uint32_t* first_row) {
  launch(cuda, "first_rows", {dim3(1), kWarpSize}, first_rows_kernel, experts, counts_E, most_E,
         first_row);
}

void fill_no_rows(Cuda& cuda, uint32_t* at, size_t elements) {
  static_assert(kNoRow == 0xffffffff);
  if (elements == 0) return;
  cudaMemsetAsync(at, 0xff, elements * sizeof(uint32_t), cuda.impl().stream);
  cuda.impl().launched("fill_no_rows");
}

void place_choices(Cuda& cuda, RouterShape shape, const uint32_t* choices_NK,
                   const uint32_t* rank_NK, const uint32_t* first_row, uint32_t* row_of_choice_NK,
                   uint32_t* token_of_row_R) {
  launch(cuda, "place_choices", {dim3(blocks_for(shape.choices(), kBlockThreads))},
         place_choices_kernel, shape.choices(), shape.top_k, choices_NK, rank_NK, first_row,
         row_of_choice_NK, token_of_row_R);
}

void gather_rows(Cuda& cuda, RowShape shape, const uint32_t* index_R, const Bf16* in,
                 Bf16* out_RX) {
  move_rows<true>(cuda, "gather_rows", shape, index_R, in, out_RX);
}

void scatter_rows(Cuda& cuda, RowShape shape, const uint32_t* index_R, const Bf16* in_RX,
                  Bf16* out) {
  move_rows<false>(cuda, "scatter_rows", shape, index_R, in_RX, out);
}

void clear_rows(Cuda& cuda, RowShape shape, const uint32_t* index_R, Bf16* out_RX) {
  with_pack(is_wide(shape.width, {out_RX}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    launch(cuda, "clear_rows", {warps_for(shape.rows)}, clear_rows_kernel<W>, shape.rows,
           shape.width, index_R, out_RX);
  });
}

void combine(Cuda& cuda, CombineShape shape, const uint32_t* row_NK, const float* gates_NK,
             const Bf16* rows_RD, const Bf16* x_ND, Bf16* y_ND) {
  with_pack(is_wide(shape.width, {rows_RD, x_ND, y_ND}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    launch(cuda, "combine", {warps_for(shape.tokens)}, sum_rows_kernel<W, true>, shape.tokens,
           shape.top_k, shape.width, row_NK, gates_NK, rows_RD, x_ND, y_ND);
  });
}

void combine_input_gradient(Cuda& cuda, CombineShape shape, const uint32_t* row_NK,
                            const float* gates_NK, const Bf16* rows_RD, const Bf16* dy_ND,
                            Bf16* drows_RD, float* dgates_NK) {
  with_warp_row(shape.width, is_wide(shape.width, {rows_RD, dy_ND, drows_RD}), [&](auto row) {
    using Row = typename decltype(row)::type;
    launch(cuda, "combine_input_gradient", {warps_for(shape.tokens)},
           combine_input_gradient_kernel<Row>, shape.tokens, shape.top_k, shape.width, row_NK,
           gates_NK, rows_RD, dy_ND, drows_RD, dgates_NK);
  });
}

void dispatch_input_gradient(Cuda& cuda, CombineShape shape, const uint32_t* row_NK,
                             const Bf16* drows_RD, Bf16* dx_ND) {
  with_pack(is_wide(shape.width, {drows_RD, dx_ND}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    launch(cuda, "dispatch_input_gradient", {warps_for(shape.tokens)}, sum_rows_kernel<W, false>,
           shape.tokens, shape.top_k, shape.width, row_NK, nullptr, drows_RD, nullptr, dx_ND);
  });
}

}  // namespace holdfast::train::kernels
