// The backward of norm, rotary positions, linear layers, embedding and loss, by finite differences.
#include <gtest/gtest.h>

#include "tests/train/kernels/gradient_check.h"
#include "train/kernels/gemm.h"
#include "train/kernels/ops.h"

namespace holdfast::train {
namespace {

using kernels::Into;
using Values = std::vector<double>;

constexpr kernels::Cpu kCpu{};

struct RowCase {
  size_t rows;
  size_t width;
};
class Rows : public testing::TestWithParam<RowCase> {};
INSTANTIATE_TEST_SUITE_P(Shapes, Rows,
                         testing::Values(RowCase{0, 8}, RowCase{1, 2}, RowCase{5, 7},
                                         RowCase{3, 16}, RowCase{4, 33}));

TEST_P(Rows, RmsNormGradientsMatchFiniteDifferences) {
  const auto [rows, width] = GetParam();
  const kernels::RowShape shape{rows, width};
  Values x = random_values(1, rows * width);
  Values weight = random_values(2, width);
  const Values along = random_values(3, rows * width);
  Values inverse_rms(rows);
  Values y(rows * width);
  const auto loss = [&] {
    kernels::rms_norm(kCpu, shape, x.data(), weight.data(), 1e-5, inverse_rms.data(), y.data());
    return weighted_sum(y, along);
  };
  loss();
  Values dx(rows * width, 0.25);  // what the residual connection brought
  kernels::rms_norm_input_gradient(kCpu, shape, along.data(), x.data(), weight.data(), inverse_rms.data(),
                                   dx.data());
  for (double& value : dx) value -= 0.25;
  Values dweight(width, 0.5);  // what earlier micro-batches brought
  kernels::rms_norm_weight_gradient(kCpu, shape, along.data(), x.data(), inverse_rms.data(),
                                    Into::kAdd, dweight.data());
  for (double& value : dweight) value -= 0.5;
  expect_gradient("x", x, dx, loss);
  expect_gradient("weight", weight, dweight, loss);
}

TEST_P(Rows, LinearGradientsMatchFiniteDifferences) {
  const auto [rows, width] = GetParam();
  const kernels::LinearShape shape{rows, width, 6};
  Values x = random_values(1, rows * width);
  Values weight = random_values(2, 6 * width);
  const Values along = random_values(3, rows * 6);
  Values y(rows * 6);
  const auto loss = [&] {
    kernels::linear(kCpu, shape, x.data(), weight.data(), y.data());
    return weighted_sum(y, along);
  };
  Values dx(rows * width, 7.0);
  const double* const nothing = nullptr;
  kernels::linear_input_gradient(kCpu, shape, along.data(), weight.data(), nothing, dx.data());
  Values dweight(6 * width, 0.5);
  kernels::linear_weight_gradient(kCpu, shape, along.data(), x.data(), Into::kAdd, dweight.data());
  for (double& value : dweight) value -= 0.5;
  expect_gradient("x", x, dx, loss);
  expect_gradient("weight", weight, dweight, loss);

  Values twice(dx.size());
  kernels::linear_input_gradient<double>(kCpu, shape, along.data(), weight.data(), dx.data(),
                                         twice.data());
  for (size_t i = 0; i < dx.size(); ++i) EXPECT_NEAR(twice[i], 2 * dx[i], 1e-12);
}

TEST_P(Rows, CrossEntropyGradientMatchesFiniteDifferences) {
  const auto [rows, width] = GetParam();
  const kernels::RowShape shape{rows, width};
  Values logits = random_values(1, rows * width);
  std::vector<int32_t> targets(rows);
  for (size_t n = 0; n < rows; ++n) targets[n] = static_cast<int32_t>(n * 5 % width);
  Values losses(rows);
  double mean = 7;
  const auto loss = [&] {
    Values scratch(logits);
    kernels::cross_entropy(kCpu, shape, targets.data(), std::nullopt, scratch.data(),
                           losses.data(), &mean);
    return 0.75 * mean;
  };
  Values dlogits(logits);
  kernels::cross_entropy(kCpu, shape, targets.data(), 0.75, dlogits.data(), losses.data(), &mean);
  EXPECT_EQ(0.75 * mean, loss());
  expect_gradient("logits", logits, dlogits, loss);
}

TEST(CrossEntropy, IsFiniteWhenTheTargetHasNoProbability) {
  std::vector<float> logits = {0.0F, 200.0F};
  const int32_t target = 0;
  float loss = 0;
  double mean = 0;
  kernels::cross_entropy<float>(kCpu, {1, 2}, &target, std::nullopt, logits.data(), &loss, &mean);
  EXPECT_DOUBLE_EQ(mean, 200.0);
}

TEST(Rotary, GradientMatchesFiniteDifferences) {
  const kernels::AttentionShape shape{2, 5, 2, 1, 6};
  const kernels::RotaryTable<double> table(kCpu, shape.context + 2, shape.head_width, 100.0);
  const size_t elements = shape.tokens() * shape.packed_width();
  Values x = random_values(1, elements);
  Values dx = random_values(2, elements);
  const Values along(dx);
  const auto loss = [&] {
    Values y(x);
    kernels::rotary(kCpu, shape, table, y.data());
    return weighted_sum(y, along);
  };
  kernels::rotary_input_gradient(kCpu, shape, table, dx.data());
  expect_gradient("x", x, dx, loss);
}

TEST(Rotary, LeavesValuesAsTheyAre) {
  const kernels::AttentionShape shape{1, 3, 2, 1, 4};
  const kernels::RotaryTable<double> table(kCpu, shape.context, shape.head_width, 100.0);
  const Values x = random_values(1, shape.tokens() * shape.packed_width());
  Values y(x);
  kernels::rotary(kCpu, shape, table, y.data());
  for (size_t n = 0; n < shape.tokens(); ++n)
    for (size_t i = 0; i < shape.packed_width(); ++i) {
      const size_t at = n * shape.packed_width() + i;
      const bool turned = n > 0 && i < 3 * shape.head_width;  // position 0 has angle 0
      EXPECT_EQ(x[at] != y[at], turned) << n << " " << i;
    }
}

TEST(Rotary, ScoresDependOnTheDistanceOfPositionsOnly) {
  const kernels::AttentionShape shape{1, 8, 1, 1, 4};
  const kernels::RotaryTable<double> table(kCpu, shape.context, shape.head_width, 10000.0);
  const Values q = random_values(1, shape.head_width);
  const Values k = random_values(2, shape.head_width);
  const auto score = [&](size_t at_q, size_t at_k) {
    const size_t row = shape.packed_width();
    Values rows(shape.context * row);
    std::copy(q.begin(), q.end(), rows.begin() + static_cast<long>(at_q * row));
    std::copy(k.begin(), k.end(), rows.begin() + static_cast<long>(at_k * row + 4));
    kernels::rotary(kCpu, shape, table, rows.data());
    double sum = 0;
    for (size_t a = 0; a < 4; ++a) sum += rows[at_q * row + a] * rows[at_k * row + 4 + a];
    return sum;
  };
  EXPECT_NEAR(score(3, 1), score(7, 5), 1e-12);
  EXPECT_GT(std::abs(score(3, 1) - score(4, 1)), 1e-3);
}

TEST(Embedding, GradientIsAddedToTheRowsOfItsTokens) {
  const kernels::RowShape shape{3, 2};
  const std::vector<int32_t> tokens = {1, 0, 1};
  const Values dx = {1, 2, 3, 4, 5, 6};
  Values dtable = {10, 10, 10, 10, 10, 10};
  kernels::embedding_weight_gradient(kCpu, shape, 3, tokens.data(), dx.data(), Into::kAdd,
                                     dtable.data());
  EXPECT_EQ(dtable, (Values{13, 14, 16, 18, 10, 10}));
  Values x(6);
  kernels::embedding(kCpu, shape, tokens.data(), dtable.data(), x.data());
  EXPECT_EQ(x, (Values{16, 18, 13, 14, 16, 18}));
  kernels::embedding_weight_gradient(kCpu, shape, 3, tokens.data(), dx.data(), Into::kOverwrite,
                                     dtable.data());
  EXPECT_EQ(dtable, (Values{3, 4, 6, 8, 0, 0}));
}

TEST(Gemm, AnEmptyInnerExtentGivesZeros) {
  Values c = {1, 2, 3, 4, 5, 6};
  kernels::gemm<double>(2, 2, 0, 1.0, {nullptr, 1}, {nullptr, 2}, Into::kAdd, {c.data(), 3});
  EXPECT_EQ(c, (Values{1, 2, 3, 4, 5, 6}));
  kernels::gemm<double>(2, 2, 0, 1.0, {nullptr, 1}, {nullptr, 2}, Into::kOverwrite, {c.data(), 3});
  EXPECT_EQ(c, (Values{0, 0, 3, 0, 0, 6}));
}

}  // namespace
}  // namespace holdfast::train
