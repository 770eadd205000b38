// Router: softmax, the K most probable and the logits' gradient with one warp per token, its
// experts spread over the lanes; counts and losses in two stages, blocks first.
#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

constexpr size_t kMostExperts = 256;
constexpr size_t kMostChoices = 16;

__device__ inline uint64_t warp_best(uint64_t value) {
#pragma unroll
  for (unsigned step = kWarpSize / 2; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// Orders by probability (its bits: it is not negative), then by the lower id; never 0, so that 0 is
// below every expert, and NaN still chooses an expert that exists.
__device__ inline uint64_t choice_key(float probability, unsigned expert) {
  return uint64_t{__float_as_uint(probability)} << 32 | ~expert;
}

// kHeld: experts of one lane, those at lane + 32 j.
template <unsigned kHeld>
__global__ void __launch_bounds__(kBlockThreads)
    route_kernel(size_t tokens, unsigned experts, unsigned top_k, float* probabilities_NE,
                 float* logsumexp_N, uint32_t* choices_NK, float* gates_NK) {
  const size_t n = row_of_warp();
  if (n >= tokens) return;
  float* const p_E = probabilities_NE + n * experts;
  float p[kHeld];
  float largest = -INFINITY;
#pragma unroll
  for (unsigned j = 0; j < kHeld; ++j) {
    const unsigned e = lane() + j * kWarpSize;
    p[j] = e < experts ? p_E[e] : -INFINITY;
    largest = fmaxf(largest, p[j]);
  }
  largest = warp_max(largest);
  float sum = 0;
#pragma unroll
  for (unsigned j = 0; j < kHeld; ++j) {
    p[j] = lane() + j * kWarpSize < experts ? expf(p[j] - largest) : 0;
    sum += p[j];
  }
  sum = warp_sum(sum);
  const float inverse = 1.0F / sum;
  uint64_t key[kHeld];
#pragma unroll
  for (unsigned j = 0; j < kHeld; ++j) {
    const unsigned e = lane() + j * kWarpSize;
    p[j] *= inverse;
    key[j] = e < experts ? choice_key(p[j], e) : 0;
    if (e < experts) p_E[e] = p[j];
  }
  if (lane() == 0) logsumexp_N[n] = largest + logf(sum);

  float gate = 0, gates = 0;
  uint32_t choice = 0;
  for (unsigned k = 0; k < top_k; ++k) {
    uint64_t best = key[0];
#pragma unroll
    for (unsigned j = 1; j < kHeld; ++j) best = key[j] > best ? key[j] : best;
    best = warp_best(best);
    const unsigned expert = ~static_cast<unsigned>(best);
    const float probability = __uint_as_float(static_cast<uint32_t>(best >> 32));
    gates += probability;
    if (lane() == k) choice = expert, gate = probability;
#pragma unroll
    for (unsigned j = 0; j < kHeld; ++j)
      if (lane() + j * kWarpSize == expert) key[j] = 0;
  }
  if (lane() < top_k) {
    choices_NK[n * top_k + lane()] = choice;
    gates_NK[n * top_k + lane()] = top_k > 1 ? gate / gates : gate;
  }
}

template <unsigned kHeld>
__global__ void __launch_bounds__(kBlockThreads)
    router_input_gradient_kernel(size_t tokens, unsigned experts, unsigned top_k,
                                 const float* probabilities_NE, const float* logsumexp_N,
                                 const uint32_t* choices_NK, const float* gates_NK,
                                 const float* dgates_NK, const uint32_t* counts_E,
                                 double balance_of_count, float dz, Bf16* dlogits_NE) {
  const size_t n = row_of_warp();
  if (n >= tokens) return;
  const float* const p_E = probabilities_NE + n * experts;
  float p[kHeld], d[kHeld];
#pragma unroll
  for (unsigned j = 0; j < kHeld; ++j) {
    const unsigned e = lane() + j * kWarpSize;
    p[j] = e < experts ? p_E[e] : 0;
    d[j] = e < experts ? static_cast<float>(balance_of_count * counts_E[e]) : 0;
  }
  // Lane k has choice k. Through the renormalisation gate_k = p_k / sum_j p_j.
  uint32_t choice = 0;
  float dp = 0, p_chosen = 0, along = 0;
  if (lane() < top_k) {
    choice = choices_NK[n * top_k + lane()];
    dp = dgates_NK[n * top_k + lane()];
    p_chosen = p_E[choice];
    along = dp * gates_NK[n * top_k + lane()];
  }
  if (top_k > 1) {
    const float sum = warp_sum(p_chosen);
    along = warp_sum(along);
    dp = (dp - along) / sum;
  }
  for (unsigned k = 0; k < top_k; ++k) {
    const uint32_t expert = __shfl_sync(kAllLanes, choice, k);
    const float more = __shfl_sync(kAllLanes, dp, k);
#pragma unroll
    for (unsigned j = 0; j < kHeld; ++j)
      if (lane() + j * kWarpSize == expert) d[j] += more;
  }
  float mean = 0;
#pragma unroll
  for (unsigned j = 0; j < kHeld; ++j) mean += p[j] * d[j];
  mean = warp_sum(mean);
  const float of_z = dz * logsumexp_N[n];
#pragma unroll
  for (unsigned j = 0; j < kHeld; ++j) {
    const unsigned e = lane() + j * kWarpSize;
    if (e >= experts) continue;
    const float gradient[1] = {p[j] * (d[j] - mean + of_z)};
    store_pack(dlogits_NE + n * experts + e, pack(gradient));
  }
}

constexpr unsigned kRounds = 8;  // choices that each lane counts
constexpr unsigned kCountedPerWarp = kRounds * kWarpSize;
constexpr unsigned kCountedPerBlock = kCountedPerWarp * kBlockWarps;

// How often each expert is chosen in this block, or, with the choices before it known, their ranks.
// Each warp takes consecutive choices, so that ranks come in the order of the choices.
template <bool kRank>
__global__ void __launch_bounds__(kBlockThreads)
    count_kernel(size_t choices, unsigned experts, const uint32_t* choices_NK, uint32_t* blocks_EB,
                 uint32_t* rank_NK) {
  extern __shared__ uint32_t counts_WE[];
  for (unsigned at = threadIdx.x; at < kBlockWarps * experts; at += kBlockThreads)
    counts_WE[at] = 0;
  __syncthreads();
  const unsigned warp = threadIdx.x / kWarpSize;
  uint32_t* const counts_E = counts_WE + warp * experts;
  const size_t begin = size_t{blockIdx.x} * kCountedPerBlock + warp * kCountedPerWarp + lane();
  uint32_t expert[kRounds], rank[kRounds];
#pragma unroll
  for (unsigned j = 0; j < kRounds; ++j) {
    const size_t i = begin + j * kWarpSize;
    expert[j] = i < choices ? choices_NK[i] : experts;
  }
#pragma unroll
  for (unsigned j = 0; j < kRounds; ++j) {
    const bool valid = expert[j] < experts;
    const unsigned same = __match_any_sync(kAllLanes, expert[j]);
    const unsigned before = __popc(same & ((1U << lane()) - 1));
    const uint32_t counted = valid ? counts_E[expert[j]] : 0;
    rank[j] = counted + before;
    __syncwarp();
    if (valid && before == 0) counts_E[expert[j]] = counted + __popc(same);
    __syncwarp();
  }
  __syncthreads();
  for (unsigned e = threadIdx.x; e < experts; e += kBlockThreads) {
    uint32_t& of_block = blocks_EB[size_t{e} * gridDim.x + blockIdx.x];
    uint32_t sum = kRank ? of_block : 0;
    for (unsigned w = 0; w < kBlockWarps; ++w) {
      const uint32_t count = counts_WE[w * experts + e];
      counts_WE[w * experts + e] = sum;
      sum += count;
    }
    if constexpr (!kRank) of_block = sum;
  }
  if constexpr (kRank) {
    __syncthreads();
#pragma unroll
    for (unsigned j = 0; j < kRounds; ++j)
      if (expert[j] < experts) rank_NK[begin + j * kWarpSize] = counts_E[expert[j]] + rank[j];
  }
}

// One warp per expert: what the blocks before each block counted, and all of them.
__global__ void __launch_bounds__(kBlockThreads)
    scan_blocks_kernel(unsigned experts, unsigned blocks, uint32_t* blocks_EB, uint32_t* counts_E) {
  const size_t e = row_of_warp();
  if (e >= experts) return;
  uint32_t* const blocks_B = blocks_EB + e * blocks;
  uint32_t before = 0;
  for (unsigned base = 0; base < blocks; base += kWarpSize) {
    const unsigned b = base + lane();
    const uint32_t count = b < blocks ? blocks_B[b] : 0;
    uint32_t through = count;
#pragma unroll
    for (unsigned step = 1; step < kWarpSize; step *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, through, step);
      if (lane() >= step) through += other;
    }
    if (b < blocks) blocks_B[b] = before + through - count;
    before += __shfl_sync(kAllLanes, through, kWarpSize - 1);
  }
  if (lane() == 0) counts_E[e] = before;
}

// ---- losses ------------------------------------------------------------------------------------

constexpr unsigned kTokensPerBlock = 256;

// The sum over rows [begin, end) of column threadIdx.x, for threads below `width` (at most a
// block). Row groups of whole rows are summed first, then the groups in order.
template <class T>
__device__ double column_sum(size_t begin, size_t end, unsigned width, const T* rows, size_t stride,
                             double* shared) {
  const unsigned groups = kBlockThreads / width;
  const unsigned group = threadIdx.x / width;
  double sum = 0;
  if (group < groups) {
#pragma unroll 4
    for (size_t n = begin + group; n < end; n += groups)
      sum += static_cast<double>(rows[n * stride + threadIdx.x % width]);
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  double total = 0;
  if (threadIdx.x < width)
    for (unsigned g = 0; g < groups; ++g) total += shared[g * width + threadIdx.x];
  __syncthreads();
  return total;
}

// Of each block: the sums of the experts' probabilities, then of logsumexp^2.
__global__ void __launch_bounds__(kBlockThreads)
    loss_partials_kernel(size_t tokens, unsigned experts, const float* probabilities_NE,
                         const float* logsumexp_N, double* partials_BE1) {
  __shared__ double shared[kBlockThreads];
  const size_t begin = size_t{blockIdx.x} * kTokensPerBlock;
  const size_t end = min(begin + kTokensPerBlock, tokens);
  double* const partials_E1 = partials_BE1 + size_t{blockIdx.x} * (experts + 1);
  const double sum = column_sum(begin, end, experts, probabilities_NE, experts, shared);
  if (threadIdx.x < experts) partials_E1[threadIdx.x] = sum;
  const size_t n = begin + threadIdx.x;
  const double logsumexp = n < end ? static_cast<double>(logsumexp_N[n]) : 0.0;
  const double squares = block_sum(logsumexp * logsumexp, shared);
  if (threadIdx.x == 0) partials_E1[experts] = squares;
}

__global__ void __launch_bounds__(kBlockThreads)
    losses_kernel(unsigned blocks, size_t tokens, unsigned experts, unsigned top_k,
                  const uint32_t* counts_E, const double* partials_BE1, double balance_weight,
                  double z_weight, double* losses) {
  __shared__ double shared[kBlockThreads];
  const double probability = column_sum(0, blocks, experts, partials_BE1, experts + 1, shared);
  const double share =
      threadIdx.x < experts
          ? counts_E[threadIdx.x] / (static_cast<double>(tokens) * static_cast<double>(top_k))
          : 0.0;
  const double balance = block_sum(share * (probability / static_cast<double>(tokens)), shared);
  __syncthreads();
  double squares = 0;
  for (unsigned b = threadIdx.x; b < blocks; b += kBlockThreads)
    squares += partials_BE1[size_t{b} * (experts + 1) + experts];
  squares = block_sum(squares, shared);
  if (threadIdx.x != 0) return;
  losses[0] += balance_weight * (static_cast<double>(experts) * balance);
  losses[1] += z_weight * (squares / static_cast<double>(tokens));
}

bool fits(Cuda& cuda, const char* operation, RouterShape shape) {
  const bool fits = shape.top_k >= 1 && shape.top_k <= shape.experts &&
                    shape.experts <= kMostExperts && shape.top_k <= kMostChoices;
  if (!fits) cuda.impl().failed(operation, "at most 256 experts and 16 choices");
  return fits;
}

template <class F>
void with_held(size_t experts, F f) {
  if (experts <= kWarpSize)
    f(std::integral_constant<unsigned, 1>{});
  else if (experts <= 2 * kWarpSize)
    f(std::integral_constant<unsigned, 2>{});
  else if (experts <= 4 * kWarpSize)
    f(std::integral_constant<unsigned, 4>{});
  else
    f(std::integral_constant<unsigned, 8>{});
}

}  // namespace

void route(Cuda& cuda, RouterShape shape, float* probabilities_NE, float* logsumexp_N,
           uint32_t* choices_NK, float* gates_NK) {
  if (!fits(cuda, "route", shape)) return;
  with_held(shape.experts, [&](auto held) {
    constexpr unsigned kHeld = decltype(held)::value;
    launch(cuda, "route", {warps_for(shape.tokens)}, route_kernel<kHeld>, shape.tokens,
           shape.experts, shape.top_k, probabilities_NE, logsumexp_N, choices_NK, gates_NK);
  });
}

void count_choices(Cuda& cuda, RouterShape shape, const uint32_t* choices_NK, uint32_t* counts_E,
                   uint32_t* rank_NK) {
  if (!fits(cuda, "count_choices", shape)) return;
  const unsigned blocks = blocks_for(shape.choices(), kCountedPerBlock);
  uint32_t* const blocks_EB = cuda.impl().scratch_of<uint32_t>(shape.experts * blocks);
  const Launch count = {dim3(blocks), kBlockThreads,
                        kBlockWarps * shape.experts * sizeof(uint32_t)};
  launch(cuda, "count_choices", count, count_kernel<false>, shape.choices(), shape.experts,
         choices_NK, blocks_EB, rank_NK);
  launch(cuda, "count_choices", {warps_for(shape.experts)}, scan_blocks_kernel, shape.experts,
         blocks, blocks_EB, counts_E);
  launch(cuda, "count_choices", count, count_kernel<true>, shape.choices(), shape.experts,
         choices_NK, blocks_EB, rank_NK);
}

void router_losses(Cuda& cuda, RouterShape shape, const float* probabilities_NE,
                   const float* logsumexp_N, const uint32_t* counts_E, RouterLosses weights,
                   double* losses) {
  if (!fits(cuda, "router_losses", shape) || shape.tokens == 0) return;
  const unsigned blocks = blocks_for(shape.tokens, kTokensPerBlock);
  double* const partials_BE1 = cuda.impl().scratch_of<double>(blocks * (shape.experts + 1));
  launch(cuda, "router_losses", {dim3(blocks)}, loss_partials_kernel, shape.tokens, shape.experts,
         probabilities_NE, logsumexp_N, partials_BE1);
  launch(cuda, "router_losses", {dim3(1)}, losses_kernel, blocks, shape.tokens, shape.experts,
         shape.top_k, counts_E, partials_BE1, weights.load_balance, weights.z, losses);
}

void router_input_gradient(Cuda& cuda, RouterShape shape, const float* probabilities_NE,
                           const float* logsumexp_N, const uint32_t* choices_NK,
                           const float* gates_NK, const float* dgates_NK, const uint32_t* counts_E,
                           RouterLosses scale, Bf16* dlogits_NE) {
  if (!fits(cuda, "router_input_gradient", shape) || shape.tokens == 0) return;
  const double tokens = static_cast<double>(shape.tokens);
  const double choices = static_cast<double>(shape.choices());
  const double balance_of_count =
      scale.load_balance * static_cast<double>(shape.experts) / choices / tokens;
  const double dz = 2.0 * scale.z / tokens;
  with_held(shape.experts, [&](auto held) {
    constexpr unsigned kHeld = decltype(held)::value;
    launch(cuda, "router_input_gradient", {warps_for(shape.tokens)},
           router_input_gradient_kernel<kHeld>, shape.tokens, shape.experts, shape.top_k,
           probabilities_NE, logsumexp_N, choices_NK, gates_NK, dgates_NK, counts_E,
           balance_of_count, dz, dlogits_NE);
  });
}

}  // namespace holdfast::train::kernels
