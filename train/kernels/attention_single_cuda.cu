#include <cmath>

#include "train/kernels/attention_single_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

constexpr unsigned kThreads = 64;

struct Heads {
  unsigned queries, keys, width;
  __device__ size_t row() const { return size_t{queries + 2 * keys} * width; }
};

// One block for each token and query head: out = v, logsumexp = q . k / sqrt(A).
__global__ void self_kernel(Heads s, float scale, const __nv_bfloat16* qkv, float* kept,
                            __nv_bfloat16* out) {
  const size_t n = blockIdx.x;
  const unsigned h = blockIdx.y, group = h / (s.queries / s.keys);
  const __nv_bfloat16* q = qkv + n * s.row() + h * s.width;
  const __nv_bfloat16* k = qkv + n * s.row() + (s.queries + group) * s.width;
  const __nv_bfloat16* v = k + s.keys * s.width;
  for (unsigned i = threadIdx.x; i < s.width; i += kThreads)
    out[(n * s.queries + h) * s.width + i] = v[i];
  if (threadIdx.x != 0) return;
  float score = 0;
  for (unsigned i = 0; i < s.width; ++i) score += __bfloat162float(q[i]) * __bfloat162float(k[i]);
  kept[n * s.queries + h] = score * scale;
}

// One block for each token and key head: dq = dk = 0, dv = sum of dout over the group's heads.
__global__ void self_gradient_kernel(Heads s, const __nv_bfloat16* dout, __nv_bfloat16* dqkv) {
  const size_t n = blockIdx.x;
  const unsigned group = blockIdx.y, shared = s.queries / s.keys;
  __nv_bfloat16* dq = dqkv + n * s.row() + group * shared * s.width;
  __nv_bfloat16* dk = dqkv + n * s.row() + (s.queries + group) * s.width;
  __nv_bfloat16* dv = dk + s.keys * s.width;
  for (unsigned i = threadIdx.x; i < s.width; i += kThreads) {
    float sum = 0;
    for (unsigned h = 0; h < shared; ++h) {
      sum += __bfloat162float(dout[(n * s.queries + group * shared + h) * s.width + i]);
      dq[h * s.width + i] = __float2bfloat16(0.0F);
    }
    dk[i] = __float2bfloat16(0.0F);
    dv[i] = __float2bfloat16(sum);
  }
}

Heads heads_of(AttentionShape s) {
  return {static_cast<unsigned>(s.heads), static_cast<unsigned>(s.kv_heads),
          static_cast<unsigned>(s.head_width)};
}
dim3 blocks_for(size_t tokens, size_t heads) {
  return {static_cast<unsigned>(tokens), static_cast<unsigned>(heads)};
}

}  // namespace

void attend_to_itself(Cuda::Impl& impl, AttentionShape shape, const Bf16* qkv_NPA, float* kept,
                      Bf16* out_NHA) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_width));
  self_kernel<<<blocks_for(shape.tokens(), shape.heads), kThreads, 0, impl.stream>>>(
      heads_of(shape), scale, device_type(qkv_NPA), kept, device_type(out_NHA));
  impl.launched("attention");
}

void attend_to_itself_input_gradient(Cuda::Impl& impl, AttentionShape shape, const Bf16* dout_NHA,
                                     Bf16* dqkv_NPA) {
  self_gradient_kernel<<<blocks_for(shape.tokens(), shape.kv_heads), kThreads, 0, impl.stream>>>(
      heads_of(shape), device_type(dout_NHA), device_type(dqkv_NPA));
  impl.launched("attention_input_gradient");
}

}  // namespace holdfast::train::kernels
