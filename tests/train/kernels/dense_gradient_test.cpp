// The backward of norm, rotary positions, linear layers, embedding and loss, by finite differences.
#include <gtest/gtest.h>

#include "tests/train/kernels/gradient_check.h"
#include "train/kernels/gemm.h"
#include "train/kernels/ops.h"

namespace holdfast::train {
namespace {

using kernels::Into;
using Values = std::vector<double>;

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
    kernels::rms_norm(shape, x.data(), weight.data(), 1e-5, inverse_rms.data(), y.data());
    return weighted_sum(y, along);
  };
  loss();
  Values dx(rows * width, 0.25);  // what the residual connection brought
  kernels::rms_norm_input_gradient(shape, along.data(), x.data(), weight.data(), inverse_rms.data(),
                                   dx.data());
  for (double& value : dx) value -= 0.25;
  Values dweight(width, 0.5);  // what earlier micro-batches brought
  kernels::rms_norm_weight_gradient(shape, along.data(), x.data(), inverse_rms.data(),
                                    dweight.data());
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
    kernels::linear(shape, x.data(), weight.data(), Into::kOverwrite, y.data());
    return weighted_sum(y, along);
  };
  Values dx(rows * width, 7.0);
  kernels::linear_input_gradient(shape, along.data(), weight.data(), Into::kOverwrite, dx.data());
  Values dweight(6 * width, 0.5);
  kernels::linear_weight_gradient(shape, along.data(), x.data(), dweight.data());
  for (double& value : dweight) value -= 0.5;
  expect_gradient("x", x, dx, loss);
  expect_gradient("weight", weight, dweight, loss);

  Values twice(dx);
  kernels::linear_input_gradient(shape, along.data(), weight.data(), Into::kAdd, twice.data());
  for (size_t i = 0; i < dx.size(); ++i) EXPECT_NEAR(twice[i], 2 * dx[i], 1e-12);
}

TEST_P(Rows, CrossEntropyGradientMatchesFiniteDifferences) {
  const auto [rows, width] = GetParam();
  const kernels::RowShape shape{rows, width};
  Values logits = random_values(1, rows * width);
  std::vector<int32_t> targets(rows);
  for (size_t n = 0; n < rows; ++n) targets[n] = static_cast<int32_t>(n * 5 % width);
  const auto loss = [&] {
    Values probabilities(logits);
    return 0.75 * kernels::cross_entropy(shape, targets.data(), probabilities.data());
  };
  Values dlogits(logits);
  kernels::cross_entropy(shape, targets.data(), dlogits.data());
  kernels::cross_entropy_input_gradient(shape, targets.data(), 0.75, dlogits.data());
  expect_gradient("logits", logits, dlogits, loss);
}

TEST(CrossEntropy, IsFiniteWhenTheTargetHasNoProbability) {
  std::vector<float> logits = {0.0F, 200.0F};
  const int32_t target = 0;
  EXPECT_DOUBLE_EQ(kernels::cross_entropy<float>({1, 2}, &target, logits.data()), 200.0);
}

TEST(Rotary, GradientMatchesFiniteDifferences) {
  const size_t context = 5, heads = 3, head_width = 6, rows = 2 * context;
  const kernels::RowShape shape{rows, heads * head_width};
  const kernels::RotaryTable<double> table(context + 2, head_width, 100.0);
  Values x = random_values(1, rows * shape.width);
  Values dx = random_values(2, rows * shape.width);
  const Values along(dx);
  const auto loss = [&] {
    Values y(x);
    kernels::rotary(shape, context, table, y.data());
    return weighted_sum(y, along);
  };
  kernels::rotary_input_gradient(shape, context, table, dx.data());
  expect_gradient("x", x, dx, loss);
}

TEST(Rotary, ScoresDependOnTheDistanceOfPositionsOnly) {
  const size_t context = 8, head_width = 4;
  const kernels::RotaryTable<double> table(context, head_width, 10000.0);
  const Values q = random_values(1, head_width);
  const Values k = random_values(2, head_width);
  const auto score = [&](size_t at_q, size_t at_k) {
    Values rows_q(context * head_width), rows_k(context * head_width);
    std::copy(q.begin(), q.end(), rows_q.begin() + static_cast<long>(at_q * head_width));
    std::copy(k.begin(), k.end(), rows_k.begin() + static_cast<long>(at_k * head_width));
    kernels::rotary({context, head_width}, context, table, rows_q.data());
    kernels::rotary({context, head_width}, context, table, rows_k.data());
    double sum = 0;
    for (size_t a = 0; a < head_width; ++a)
      sum += rows_q[at_q * head_width + a] * rows_k[at_k * head_width + a];
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
  kernels::embedding_weight_gradient(shape, tokens.data(), dx.data(), dtable.data());
  EXPECT_EQ(dtable, (Values{13, 14, 16, 18, 10, 10}));
  Values x(6);
  kernels::embedding(shape, tokens.data(), dtable.data(), x.data());
  EXPECT_EQ(x, (Values{16, 18, 13, 14, 16, 18}));
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
