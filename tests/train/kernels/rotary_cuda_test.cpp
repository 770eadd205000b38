// Rotary positions on an accelerator: queries and keys turn as on the CPU, values stay.
#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

using RotaryCuda = CudaTest;

constexpr double kTheta = 10000.0;

const std::vector<AttentionShape> kShapes = {
    {0, 8, 2, 1, 8},    {1, 1, 1, 1, 2},     {2, 5, 3, 1, 6},       {1, 7, 4, 2, 12},
    {2, 33, 4, 4, 16},  {3, 64, 12, 4, 64},  {2, 100, 16, 16, 128}, {1, 9, 40, 8, 128},
    {1, 3, 64, 64, 24}, {4, 2048, 12, 4, 64}};

std::string name(const AttentionShape& s) {
  return std::to_string(s.sequences) + " x " + std::to_string(s.context) + ", heads " +
         std::to_string(s.heads) + " + " + std::to_string(s.kv_heads) + " of " +
         std::to_string(s.head_width);
}

TEST_F(RotaryCuda, TurnsAsOnTheCpuForwardsAndBack) {
  for (const AttentionShape& shape : kShapes) {
    SCOPED_TRACE(name(shape));
    // Longer than the sequences: positions, not the table, wrap.
    const size_t context = shape.context + 3;
    const CudaRotaryTable table(cuda(), context, shape.head_width, kTheta);
    const RotaryTable<double> reference(Cpu{}, context, shape.head_width, kTheta);
    std::mt19937 random(static_cast<unsigned>(shape.context + shape.head_width));
    std::vector<float> qkv = random_values(random, shape.tokens() * shape.packed_width());
    for (const bool forward : {true, false}) {
      std::vector<Bf16> first;
      for (int run = 0; run < 2; ++run) {
        auto turned = to_device_bf16(qkv);
        std::vector<double> expected = doubles(qkv);
        if (forward) {
          rotary(cuda(), shape, table, turned.data());
          rotary<double>(Cpu{}, shape, reference, expected.data());
        } else {
          rotary_input_gradient(cuda(), shape, table, turned.data());
          rotary_input_gradient<double>(Cpu{}, shape, reference, expected.data());
        }
        const std::vector<float> got = to_host_float(turned);
        EXPECT_LT(relative_error(got, expected), kBf16Tolerance);
        for (size_t i = 0; i < got.size(); ++i) {
          const size_t head = i % shape.packed_width() / shape.head_width;
          if (head >= shape.heads + shape.kv_heads) {
            ASSERT_EQ(got[i], qkv[i]) << i;
          }
        }
        if (run == 0)
          first = to_host(turned);
        else
          expect_same_bits(first, to_host(turned));
      }
    }
  }
}

TEST_F(RotaryCuda, TableIsTheCpus) {
  const size_t context = 50, width = 32;
  const CudaRotaryTable table(cuda(), context, width, kTheta);
  const RotaryTable<float> expected(Cpu{}, context, width, kTheta);
  PinnedBuffer<float> cosine(context * width / 2), sine(context * width / 2);
  download_bytes(cuda(), table.cosine(), cosine.size() * sizeof(float), cosine.data());
  download_bytes(cuda(), table.sine(), sine.size() * sizeof(float), sine.data());
  ASSERT_TRUE(cuda().finish());
  for (size_t i = 0; i < cosine.size(); ++i) {
    ASSERT_EQ(cosine.data()[i], expected.cosine(0)[i]);
    ASSERT_EQ(sine.data()[i], expected.sine(0)[i]);
  }
}

}  // namespace
}  // namespace holdfast::train::kernels
