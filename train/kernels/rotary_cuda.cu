// Rotary positions: one thread per pack of pairs; a row's angles stay in the L1 cache for its
// heads.
#include <cmath>

#include "train/kernels/launch_cuda.cuh"

namespace holdfast::train::kernels {
namespace {

// `direction` +1 rotates by the position's angle, -1 back: the transpose of a rotation.
template <unsigned W>
__global__ void __launch_bounds__(kBlockThreads)
    rotary_kernel(size_t rows, unsigned context, unsigned rotated_heads, unsigned packed_width,
                  unsigned half, const float* cosine_TA, const float* sine_TA, float direction,
                  Bf16* qkv_NPA) {
  const unsigned packs_per_head = half / W;
  const RowItem at = row_item(rows, rotated_heads * packs_per_head);
  if (!at.valid) return;
  const unsigned head = at.item / packs_per_head;
  const unsigned a = at.item % packs_per_head * W;
  Bf16* const low_at = qkv_NPA + at.row * packed_width + head * 2 * half + a;
  Bf16* const high_at = low_at + half;
  float low[W], high[W], cosine[W], sine[W];
  unpack(load_pack<W>(low_at), low);
  unpack(load_pack<W>(high_at), high);
  const size_t position = at.row % context;
  load_floats(cosine_TA + position * half + a, cosine);
  load_floats(sine_TA + position * half + a, sine);
#pragma unroll
  for (unsigned w = 0; w < W; ++w) {
    const float x = low[w];
    const float y = high[w];
    low[w] = x * cosine[w] - direction * y * sine[w];
    high[w] = y * cosine[w] + direction * x * sine[w];
  }
  store_pack(low_at, pack(low));
  store_pack(high_at, pack(high));
}

void rotate(Cuda& cuda, const char* operation, AttentionShape shape, const CudaRotaryTable& table,
            float direction, Bf16* qkv_NPA) {
  if (shape.head_width != 2 * table.half() || shape.context > table.context())
    return cuda.impl().failed(operation, "the table is for other heads or a shorter context");
  const size_t rotated_heads = shape.heads + shape.kv_heads;
  // Pairs are half a head apart, so it is the half that must be a multiple of a pack.
  with_pack(is_wide(table.half(), {qkv_NPA, table.cosine(), table.sine()}), [&](auto pack_width) {
    constexpr unsigned W = decltype(pack_width)::value;
    launch(cuda, operation, {item_blocks(shape.tokens(), rotated_heads * (table.half() / W))},
           rotary_kernel<W>, shape.tokens(), shape.context, rotated_heads, shape.packed_width(),
           table.half(), table.cosine(), table.sine(), direction, qkv_NPA);
  });
}

}  // namespace

CudaRotaryTable::CudaRotaryTable(Cuda& cuda, size_t context, size_t head_width, double theta)
    : context_(context), half_(head_width / 2), cosine_(context * half_), sine_(context * half_) {
  PinnedBuffer<float> cosine(context * half_), sine(context * half_);
  for (size_t position = 0; position < context; ++position) {
    for (size_t a = 0; a < half_; ++a) {
      const double exponent = -2.0 * static_cast<double>(a) / static_cast<double>(head_width);
      const double angle = static_cast<double>(position) * std::pow(theta, exponent);
      cosine.data()[position * half_ + a] = static_cast<float>(std::cos(angle));
      sine.data()[position * half_ + a] = static_cast<float>(std::sin(angle));
    }
  }
  upload_bytes(cuda, cosine.data(), cosine.size() * sizeof(float), cosine_.data());
  upload_bytes(cuda, sine.data(), sine.size() * sizeof(float), sine_.data());
  // The pinned copies go away; an error is remembered and comes with the next check().
  static_cast<void>(cuda.finish());
}

void rotary(Cuda& cuda, AttentionShape shape, const CudaRotaryTable& table, Bf16* qkv_NPA) {
  rotate(cuda, "rotary", shape, table, 1.0F, qkv_NPA);
}
void rotary_input_gradient(Cuda& cuda, AttentionShape shape, const CudaRotaryTable& table,
                           Bf16* dqkv_NPA) {
  rotate(cuda, "rotary_input_gradient", shape, table, -1.0F, dqkv_NPA);
}

}  // namespace holdfast::train::kernels
