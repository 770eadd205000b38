// SwiGLU on an accelerator computes what the CPU computes, and stays finite far from zero.
#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

using SwigluCuda = CudaTest;

const std::vector<RowShape> kShapes = {{0, 64},    {1, 1},    {3, 5},    {700, 24}, {5, 1024},
                                       {65, 2048}, {9, 2050}, {3, 4104}, {2, 300},  {4096, 2048}};

TEST_F(SwigluCuda, IsTheCpusForEveryShape) {
  for (const auto& [rows, width] : kShapes) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(width));
    std::mt19937 random(static_cast<unsigned>(rows * 7 + width));
    std::vector<float> gate_up = random_values(random, rows * 2 * width, 2.0F);
    const auto device_gate_up = to_device_bf16(gate_up);
    std::vector<double> expected(rows * width);
    swiglu<double>(Cpu{}, rows, width, doubles(gate_up).data(), expected.data());
    std::vector<Bf16> first;
    for (int run = 0; run < 2; ++run) {
      auto hidden = poisoned<Bf16>(rows * width);
      swiglu(cuda(), rows, width, device_gate_up.data(), hidden.data());
      EXPECT_LT(relative_error(to_host_float(hidden), expected), kBf16Tolerance);
      if (run == 0)
        first = to_host(hidden);
      else
        expect_same_bits(first, to_host(hidden));
    }
  }
}

TEST_F(SwigluCuda, GradientReplacesGateAndUp) {
  for (const auto& [rows, width] : kShapes) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(width));
    std::mt19937 random(static_cast<unsigned>(rows * 5 + width));
    std::vector<float> gate_up = random_values(random, rows * 2 * width, 2.0F);
    std::vector<float> dhidden = random_values(random, rows * width);
    const auto device_dhidden = to_device_bf16(dhidden);
    std::vector<Bf16> first;
    for (int run = 0; run < 2; ++run) {
      auto gradient = to_device_bf16(gate_up);
      swiglu_input_gradient(cuda(), rows, width, device_dhidden.data(), gradient.data());
      std::vector<double> expected = doubles(gate_up);
      swiglu_input_gradient<double>(Cpu{}, rows, width, doubles(dhidden).data(), expected.data());
      EXPECT_LT(relative_error(to_host_float(gradient), expected), kBf16Tolerance);
      if (run == 0)
        first = to_host(gradient);
      else
        expect_same_bits(first, to_host(gradient));
    }
  }
}

// The device knows how many rows are in use, the host only how many there may be.
TEST_F(SwigluCuda, LeavesRowsThatAreNotUsed) {
  for (const auto& [rows, width] : kShapes) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(width));
    std::mt19937 random(static_cast<unsigned>(rows * 3 + width));
    std::vector<float> gate_up = random_values(random, rows * 2 * width, 2.0F);
    std::vector<float> dhidden = random_values(random, rows * width);
    const auto device_dhidden = to_device_bf16(dhidden);
    const std::vector<uint32_t> used = {static_cast<uint32_t>(rows / 2)};
    const auto device_used = to_device(used);
    auto gradient = to_device_bf16(gate_up);
    const auto before = to_host(gradient);
    auto whole_hidden = poisoned<Bf16>(rows * width), hidden = poisoned<Bf16>(rows * width);
    swiglu(cuda(), rows, width, gradient.data(), whole_hidden.data());
    swiglu(cuda(), rows, width, gradient.data(), hidden.data(), device_used.data());
    swiglu_input_gradient(cuda(), rows, width, device_dhidden.data(), gradient.data(),
                          device_used.data());
    const auto whole = to_host(whole_hidden), half = to_host(hidden), after = to_host(gradient);
    for (size_t i = 0; i < half.size(); ++i) {
      if (i < used[0] * width) {
        ASSERT_EQ(half[i].bits, whole[i].bits);
      } else {
        ASSERT_EQ(half[i].bits, 0xffff);
      }
    }
    for (size_t i = 2 * used[0] * width; i < after.size(); ++i)
      ASSERT_EQ(after[i].bits, before[i].bits);
  }
}

TEST_F(SwigluCuda, IsFiniteFarFromZero) {
  std::vector<float> gate_up = {-200.0F, 200.0F, 1.0F, 1.0F};
  std::vector<float> dhidden = {1.0F, 1.0F};
  auto device_gate_up = to_device_bf16(gate_up);
  const auto device_dhidden = to_device_bf16(dhidden);
  auto hidden = poisoned<Bf16>(2);
  swiglu(cuda(), 1, 2, device_gate_up.data(), hidden.data());
  EXPECT_EQ(to_host_float(hidden), (std::vector<float>{-0.0F, 200.0F}));
  swiglu_input_gradient(cuda(), 1, 2, device_dhidden.data(), device_gate_up.data());
  EXPECT_EQ(to_host_float(device_gate_up), (std::vector<float>{0.0F, 1.0F, -0.0F, 200.0F}));
}

}  // namespace
}  // namespace holdfast::train::kernels
