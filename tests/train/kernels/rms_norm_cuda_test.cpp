// RMSNorm on an accelerator computes what the CPU computes, whatever the width, and always the
// same.
#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

constexpr double kEpsilon = 1e-5;

const std::vector<RowShape> kShapes = {{0, 64},   {1, 1},    {3, 7},    {5, 100},    {129, 33},
                                       {17, 256}, {33, 768}, {9, 1024}, {6, 2048},   {5, 2056},
                                       {3, 4104}, {2, 777},  {130, 8},  {32768, 768}};

class RmsNormCuda : public CudaTest {
 protected:
  // Inputs on both sides, of one shape.
  struct Inputs {
    std::vector<float> x, weight, dy, dx;
    DeviceBuffer<Bf16> device_x, device_weight, device_dy;
  };
  Inputs inputs(RowShape shape) {
    std::mt19937 random(static_cast<unsigned>(shape.rows * 31 + shape.width));
    Inputs in;
    in.x = random_values(random, shape.rows * shape.width, 1.5F);
    in.weight = random_values(random, shape.width);
    in.dy = random_values(random, shape.rows * shape.width);
    in.dx = random_values(random, shape.rows * shape.width);
    in.device_x = to_device_bf16(in.x);
    in.device_weight = to_device_bf16(in.weight);
    in.device_dy = to_device_bf16(in.dy);
    return in;
  }
  static std::string name(RowShape shape) {
    return std::to_string(shape.rows) + " x " + std::to_string(shape.width);
  }
  // On the CPU, in double.
  static std::vector<double> inverse_rms(RowShape shape, const Inputs& in, std::vector<double>& y) {
    std::vector<double> inverse(shape.rows);
    y.resize(in.x.size());
    rms_norm<double>(Cpu{}, shape, doubles(in.x).data(), doubles(in.weight).data(), kEpsilon,
                     inverse.data(), y.data());
    return inverse;
  }
};

TEST_F(RmsNormCuda, IsTheCpusForEveryShape) {
  for (const RowShape shape : kShapes) {
    SCOPED_TRACE(name(shape));
    Inputs in = inputs(shape);
    std::vector<double> expected_y;
    const std::vector<double> expected_inverse = inverse_rms(shape, in, expected_y);
    std::vector<Bf16> first;
    for (int run = 0; run < 2; ++run) {
      auto y = poisoned<Bf16>(in.x.size());
      auto inverse = poisoned<float>(shape.rows);
      rms_norm(cuda(), shape, in.device_x.data(), in.device_weight.data(), kEpsilon, inverse.data(),
               y.data());
      EXPECT_LT(relative_error(to_host_float(y), expected_y), kBf16Tolerance);
      EXPECT_LT(relative_error(to_host(inverse), expected_inverse), kFloatTolerance);
      if (run == 0)
        first = to_host(y);
      else
        expect_same_bits(first, to_host(y));
    }
  }
}

TEST_F(RmsNormCuda, InputGradientIsAddedToDx) {
  for (const RowShape shape : kShapes) {
    SCOPED_TRACE(name(shape));
    Inputs in = inputs(shape);
    std::vector<double> y;
    const std::vector<double> inverse = inverse_rms(shape, in, y);
    auto device_inverse = to_device(std::vector<float>(inverse.begin(), inverse.end()));
    std::vector<Bf16> first;
    for (int run = 0; run < 2; ++run) {
      auto dx = to_device_bf16(in.dx);
      rms_norm_input_gradient(cuda(), shape, in.device_dy.data(), in.device_x.data(),
                              in.device_weight.data(), device_inverse.data(), dx.data());
      std::vector<double> expected = doubles(in.dx);
      rms_norm_input_gradient<double>(Cpu{}, shape, doubles(in.dy).data(), doubles(in.x).data(),
                                      doubles(in.weight).data(), inverse.data(), expected.data());
      EXPECT_LT(relative_error(to_host_float(dx), expected), kBf16Tolerance);
      if (run == 0)
        first = to_host(dx);
      else
        expect_same_bits(first, to_host(dx));
    }
  }
}

TEST_F(RmsNormCuda, WeightGradientOverwritesOrAdds) {
  for (const RowShape shape : kShapes) {
    SCOPED_TRACE(name(shape));
    Inputs in = inputs(shape);
    std::vector<double> y;
    const std::vector<double> inverse = inverse_rms(shape, in, y);
    auto device_inverse = to_device(std::vector<float>(inverse.begin(), inverse.end()));
    std::mt19937 random(7);
    const std::vector<float> before = random_values(random, shape.width);
    for (const Into into : {Into::kOverwrite, Into::kAdd}) {
      std::vector<double> expected = doubles(before);
      rms_norm_weight_gradient<double>(Cpu{}, shape, doubles(in.dy).data(), doubles(in.x).data(),
                                       inverse.data(), into, expected.data());
      std::vector<float> first;
      for (int run = 0; run < 2; ++run) {
        auto dweight = into == Into::kAdd ? to_device(before) : poisoned<float>(shape.width);
        rms_norm_weight_gradient(cuda(), shape, in.device_dy.data(), in.device_x.data(),
                                 device_inverse.data(), into, dweight.data());
        EXPECT_LT(relative_error(to_host(dweight), expected), kFloatTolerance);
        if (run == 0)
          first = to_host(dweight);
        else
          expect_same_bits(first, to_host(dweight));
      }
    }
  }
}

TEST_F(RmsNormCuda, PointersNeedNoAlignment) {
  const RowShape shape = {5, 64};
  Inputs in = inputs(shape);
  std::vector<double> expected;
  inverse_rms(shape, in, expected);
  std::vector<float> padded(1, 0.0F);
  padded.insert(padded.end(), in.x.begin(), in.x.end());
  auto x = to_device_bf16(padded);
  auto y = poisoned<Bf16>(in.x.size());
  auto inverse = poisoned<float>(shape.rows);
  rms_norm(cuda(), shape, x.data() + 1, in.device_weight.data(), kEpsilon, inverse.data(),
           y.data());
  EXPECT_LT(relative_error(to_host_float(y), expected), kBf16Tolerance);
}

}  // namespace
}  // namespace holdfast::train::kernels
