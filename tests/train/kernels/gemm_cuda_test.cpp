// Products against double loops: odd sizes, every sum of fp32 accuracy, what is added, what is not
// written, the same bits twice.
#include <string>

#include "tests/train/kernels/cuda_kit.h"

namespace holdfast::train::kernels {
namespace {

constexpr double kBf16 = 4e-3;  // rounding of the result
constexpr double kFp32 = 2e-5;  // the order of the sum; tensor cores cut off instead of rounding

// out[n][o] = sum_i x[n][i] w[o][i], strides in elements.
struct Operand {
  const std::vector<float>& values;
  size_t outer, inner;  // strides
};
std::vector<double> product(size_t rows, size_t columns, size_t sums, Operand a, Operand b) {
  std::vector<double> out(rows * columns, 0.0);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c) {
      double sum = 0;
      for (size_t s = 0; s < sums; ++s)
        sum += static_cast<double>(a.values[r * a.outer + s * a.inner]) *
               static_cast<double>(b.values[c * b.outer + s * b.inner]);
      out[r * columns + c] = sum;
    }
  return out;
}

void add_to(std::vector<double>& values, const std::vector<float>& more) {
  for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<double>(more[i]);
}

class GemmCudaTest : public CudaTest, public testing::WithParamInterface<LinearShape> {};

TEST_P(GemmCudaTest, LinearIsTheSumPlusWhatIsAdded) {
  const LinearShape s = GetParam();
  std::mt19937 random(11);
  auto x = random_values(random, s.rows * s.in), w = random_values(random, s.out * s.in);
  auto add = random_values(random, s.rows * s.out);
  const auto x_device = to_device_bf16(x), w_device = to_device_bf16(w);
  const auto add_device = to_device_bf16(add);
  auto want = product(s.rows, s.out, s.in, {x, s.in, 1}, {w, s.in, 1});

  auto wide = poisoned<float>(s.rows * s.out);
  linear(cuda(), s, x_device.data(), w_device.data(), wide.data());
  EXPECT_LE(relative_error(to_host(wide), want), kFp32);

  auto y = poisoned<Bf16>(s.rows * s.out);
  linear(cuda(), s, x_device.data(), w_device.data(), nullptr, y.data());
  EXPECT_LE(relative_error(to_host_float(y), want), kBf16);
  const auto first = to_host(y);
  linear(cuda(), s, x_device.data(), w_device.data(), nullptr, y.data());
  EXPECT_TRUE(to_host(y) == first) << "the same inputs give the same bits";

  add_to(want, add);
  auto sum = poisoned<Bf16>(s.rows * s.out);
  linear(cuda(), s, x_device.data(), w_device.data(), add_device.data(), sum.data());
  EXPECT_LE(relative_error(to_host_float(sum), want), kBf16);
  auto in_place = to_device_bf16(add);
  linear(cuda(), s, x_device.data(), w_device.data(), in_place.data(), in_place.data());
  EXPECT_LE(relative_error(to_host_float(in_place), want), kBf16);
}

TEST_P(GemmCudaTest, InputGradientIsTheSumOverOutputs) {
  const LinearShape s = GetParam();
  std::mt19937 random(12);
  auto dy = random_values(random, s.rows * s.out), w = random_values(random, s.out * s.in);
  auto add = random_values(random, s.rows * s.in);
  const auto dy_device = to_device_bf16(dy), w_device = to_device_bf16(w);
  const auto add_device = to_device_bf16(add);
  auto want = product(s.rows, s.in, s.out, {dy, s.out, 1}, {w, 1, s.in});

  auto dx = poisoned<Bf16>(s.rows * s.in);
  linear_input_gradient(cuda(), s, dy_device.data(), w_device.data(), nullptr, dx.data());
  EXPECT_LE(relative_error(to_host_float(dx), want), kBf16);
  add_to(want, add);
  linear_input_gradient(cuda(), s, dy_device.data(), w_device.data(), add_device.data(), dx.data());
  EXPECT_LE(relative_error(to_host_float(dx), want), kBf16);
  auto in_place = to_device_bf16(add);
  linear_input_gradient(cuda(), s, dy_device.data(), w_device.data(), in_place.data(),
                        in_place.data());
  EXPECT_LE(relative_error(to_host_float(in_place), want), kBf16);
}

TEST_P(GemmCudaTest, WeightGradientIsTheSumOverRows) {
  const LinearShape s = GetParam();
  std::mt19937 random(13);
  auto dy = random_values(random, s.rows * s.out), x = random_values(random, s.rows * s.in);
  const auto before = random_values(random, s.out * s.in);
  const auto dy_device = to_device_bf16(dy), x_device = to_device_bf16(x);
  auto want = product(s.out, s.in, s.rows, {dy, 1, s.out}, {x, 1, s.in});

  auto dw = poisoned<float>(s.out * s.in);
  linear_weight_gradient(cuda(), s, dy_device.data(), x_device.data(), Into::kOverwrite, dw.data());
  EXPECT_LE(relative_error(to_host(dw), want), kFp32);
  const auto first = to_host(dw);
  linear_weight_gradient(cuda(), s, dy_device.data(), x_device.data(), Into::kOverwrite, dw.data());
  EXPECT_TRUE(to_host(dw) == first) << "the same inputs give the same bits";

  auto sum = to_device(before);
  linear_weight_gradient(cuda(), s, dy_device.data(), x_device.data(), Into::kAdd, sum.data());
  add_to(want, before);
  EXPECT_LE(relative_error(to_host(sum), want), kFp32);
}

INSTANTIATE_TEST_SUITE_P(Shapes, GemmCudaTest,
                         testing::Values(LinearShape{1, 1, 1}, LinearShape{1, 64, 48},
                                         LinearShape{3, 17, 5}, LinearShape{37, 40, 24},
                                         LinearShape{128, 192, 64}, LinearShape{333, 129, 65},
                                         LinearShape{1000, 72, 16}, LinearShape{0, 16, 8},
                                         LinearShape{5, 16, 0}, LinearShape{5, 0, 8}),
                         [](const auto& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.in) + "x" +
                                  std::to_string(info.param.out);
                         });

class ManyShapesCudaTest : public CudaTest {};

// More shapes than plans are kept of: experts that are products of their own have any number of rows.
TEST_F(ManyShapesCudaTest, AreRightAlsoWhenTheirPlansWereForgotten) {
  constexpr size_t kMost = 5000, kIn = 8, kOut = 16;
  std::mt19937 random(15);
  auto x = random_values(random, kMost * kIn), w = random_values(random, kOut * kIn);
  const auto x_device = to_device_bf16(x), w_device = to_device_bf16(w);
  const auto want = product(kMost, kOut, kIn, {x, kIn, 1}, {w, kIn, 1});
  auto y = poisoned<float>(kMost * kOut);
  const auto expect_rows = [&](size_t rows) {
    zero(cuda(), y.data(), y.size());
    linear(cuda(), {rows, kIn, kOut}, x_device.data(), w_device.data(), y.data());
    auto whole = want;
    std::fill(whole.begin() + static_cast<ptrdiff_t>(rows * kOut), whole.end(), 0.0);
    EXPECT_LE(relative_error(to_host(y), whole), kFp32) << rows;
  };
  for (size_t rows = 1; rows <= kMost; ++rows)
    linear(cuda(), {rows, kIn, kOut}, x_device.data(), w_device.data(), y.data());
  for (const size_t rows : {size_t{1}, size_t{77}, kMost - 1, kMost}) expect_rows(rows);
}

class LargeGemmCudaTest : public CudaTest {};

// The head of the model at the largest size: a sample of rows.
TEST_F(LargeGemmCudaTest, AreRightInASampleOfRows) {
  const LinearShape s{4096, 768, 50304};
  std::mt19937 random(14);
  auto x = random_values(random, s.rows * s.in), w = random_values(random, s.out * s.in);
  const auto x_device = to_device_bf16(x), w_device = to_device_bf16(w);
  auto y = poisoned<Bf16>(s.rows * s.out);
  linear(cuda(), s, x_device.data(), w_device.data(), nullptr, y.data());
  const auto got = to_host_float(y);
  for (const size_t row : {size_t{0}, size_t{1}, size_t{2047}, size_t{4095}}) {
    const std::vector<float> x_row(x.begin() + static_cast<ptrdiff_t>(row * s.in),
                                   x.begin() + static_cast<ptrdiff_t>((row + 1) * s.in));
    const std::vector<float> got_row(got.begin() + static_cast<ptrdiff_t>(row * s.out),
                                     got.begin() + static_cast<ptrdiff_t>((row + 1) * s.out));
    EXPECT_LE(relative_error(got_row, product(1, s.out, s.in, {x_row, s.in, 1}, {w, s.in, 1})),
              kBf16)
        << "row " << row;
  }
}

}  // namespace
}  // namespace holdfast::train::kernels
