// Router, dispatch, combine and SwiGLU: what they compute, and their backward by finite
// differences.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/train/kernels/gradient_check.h"
#include "train/kernels/ops.h"

namespace holdfast::train {
namespace {

using kernels::RouterShape;
using Values = std::vector<double>;

TEST(SwiGlu, GradientsMatchFiniteDifferences) {
  Values gate = random_values(1, 37, 2.0);
  Values up = random_values(2, 37);
  const Values along = random_values(3, 37);
  const auto loss = [&] {
    Values hidden(37);
    kernels::swiglu(37, gate.data(), up.data(), hidden.data());
    return weighted_sum(hidden, along);
  };
  Values dgate(gate), dup(up);
  kernels::swiglu_input_gradient(37, along.data(), dgate.data(), dup.data());
  expect_gradient("gate", gate, dgate, loss);
  expect_gradient("up", up, dup, loss);
}

TEST(SwiGlu, IsFiniteFarFromZero) {
  std::vector<float> gate = {-200.0F, 200.0F}, up = {1.0F, 1.0F}, hidden(2);
  const std::vector<float> dhidden = {1.0F, 1.0F};
  kernels::swiglu(2, gate.data(), up.data(), hidden.data());
  EXPECT_EQ(hidden, (std::vector<float>{-0.0F, 200.0F}));
  kernels::swiglu_input_gradient(2, dhidden.data(), gate.data(), up.data());
  EXPECT_EQ(gate, (std::vector<float>{0.0F, 1.0F}));
}

struct Routed {
  Values probabilities, logsumexp, gates;
  std::vector<uint32_t> choices, counts;
};
Routed route(RouterShape shape, const Values& logits) {
  Routed r{logits, Values(shape.tokens), Values(shape.tokens * shape.top_k),
           std::vector<uint32_t>(shape.tokens * shape.top_k), std::vector<uint32_t>(shape.experts)};
  kernels::route(shape, r.probabilities.data(), r.logsumexp.data(), r.choices.data(),
                 r.gates.data());
  for (const uint32_t choice : r.choices) ++r.counts[choice];
  return r;
}

TEST(Router, ChoosesTheMostProbableAndTheLowerIdAmongEquals) {
  const Routed r = route({2, 4, 2}, {0, 3, 1, 3, 5, 5, 5, 5});
  EXPECT_EQ(r.choices, (std::vector<uint32_t>{1, 3, 0, 1}));
  EXPECT_DOUBLE_EQ(r.gates[0], 0.5);
  EXPECT_DOUBLE_EQ(r.gates[2] + r.gates[3], 1.0);
  EXPECT_NEAR(r.logsumexp[1], 5 + std::log(4.0), 1e-12);
}

TEST(Router, ASingleChoiceKeepsItsProbabilityAsGate) {
  const Routed r = route({1, 2, 1}, {0, std::log(3.0)});
  EXPECT_EQ(r.choices, (std::vector<uint32_t>{1}));
  EXPECT_DOUBLE_EQ(r.gates[0], 0.75);
}

TEST(Router, LossesAreOneWhenBalancedAndZeroWithoutTokens) {
  const RouterShape shape{4, 4, 1};
  Routed r = route(shape, {9, 0, 0, 0, 0, 9, 0, 0, 0, 0, 9, 0, 0, 0, 0, 9});
  const auto losses =
      kernels::router_losses(shape, r.probabilities.data(), r.logsumexp.data(), r.counts);
  EXPECT_NEAR(losses.load_balance, 1.0, 1e-12);
  EXPECT_NEAR(losses.z, r.logsumexp[0] * r.logsumexp[0], 1e-9);
  r.counts.assign(4, 0);
  const auto none = kernels::router_losses<double>({0, 4, 1}, nullptr, nullptr, r.counts);
  EXPECT_EQ(none.load_balance, 0);
  EXPECT_EQ(none.z, 0);
}

class RouterGradient : public testing::TestWithParam<RouterShape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, RouterGradient,
                         testing::Values(RouterShape{5, 6, 2}, RouterShape{7, 4, 1},
                                         RouterShape{3, 8, 4}, RouterShape{1, 3, 3},
                                         RouterShape{2, 1, 1}));

TEST_P(RouterGradient, MatchesFiniteDifferencesWithTheChoiceFrozen) {
  const RouterShape shape = GetParam();
  Values logits = random_values(1, shape.tokens * shape.experts);
  const Values along = random_values(2, shape.tokens * shape.top_k);
  const Routed at = route(shape, logits);
  const auto loss = [&] {
    const Routed r = route(shape, logits);
    EXPECT_EQ(r.choices, at.choices) << "the perturbation flipped a choice; take another seed";
    const auto losses =
        kernels::router_losses(shape, r.probabilities.data(), r.logsumexp.data(), r.counts);
    return weighted_sum(r.gates, along) + 0.3 * losses.load_balance + 0.2 * losses.z;
  };
  Values dlogits(logits.size(), 7.0);
  kernels::router_input_gradient(shape, at.probabilities.data(), at.logsumexp.data(),
                                 at.choices.data(), at.gates.data(), along.data(), at.counts,
                                 {0.3, 0.2}, dlogits.data());
  expect_gradient("logits", logits, dlogits, loss);
}

TEST(Combine, GradientsMatchFiniteDifferences) {
  const kernels::CombineShape shape{4, 2, 5};
  const std::vector<uint32_t> row = {3, 0, 7, 1, 2, 6, 5, 4};
  Values gates = random_values(1, 8);
  Values rows = random_values(2, 8 * 5);
  const Values along = random_values(3, 4 * 5);
  const auto loss = [&] {
    Values y(4 * 5, 1.0);
    kernels::combine(shape, row.data(), gates.data(), rows.data(), y.data());
    return weighted_sum(y, along);
  };
  Values drows(rows.size(), 7.0), dgates(gates.size(), 7.0);
  kernels::combine_input_gradient(shape, row.data(), gates.data(), rows.data(), along.data(),
                                  drows.data(), dgates.data());
  expect_gradient("gates", gates, dgates, loss);
  expect_gradient("rows", rows, drows, loss);
}

TEST(Dispatch, GradientMatchesFiniteDifferences) {
  const kernels::CombineShape shape{3, 2, 4};
  const std::vector<uint32_t> row_of_choice = {5, 0, 1, 3, 2, 4};
  std::vector<uint32_t> token_of_row(6);
  for (uint32_t i = 0; i < 6; ++i) token_of_row[row_of_choice[i]] = i / 2;
  Values x = random_values(1, 3 * 4);
  const Values along = random_values(2, 6 * 4);
  const auto loss = [&] {
    Values sent(6 * 4);
    kernels::gather_rows({6, 4}, token_of_row.data(), x.data(), sent.data());
    return weighted_sum(sent, along);
  };
  Values dx(x.size(), 7.0);
  kernels::dispatch_input_gradient(shape, row_of_choice.data(), along.data(), dx.data());
  expect_gradient("x", x, dx, loss);
}

TEST(Rows, ScatterUndoesGather) {
  const std::vector<uint32_t> index = {2, 0, 1};
  const Values in = random_values(1, 3 * 5);
  Values gathered(15), back(15);
  kernels::gather_rows({3, 5}, index.data(), in.data(), gathered.data());
  kernels::scatter_rows({3, 5}, index.data(), gathered.data(), back.data());
  EXPECT_EQ(back, in);
}

}  // namespace
}  // namespace holdfast::train
