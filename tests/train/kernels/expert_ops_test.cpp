// Router, dispatch, combine and SwiGLU: what they compute, and their backward by finite
// differences.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/train/kernels/gradient_check.h"
#include "train/kernels/experts.h"
#include "train/kernels/ops.h"

namespace holdfast::train {
namespace {

using kernels::RouterShape;
using Values = std::vector<double>;

constexpr kernels::Cpu kCpu{};

TEST(SwiGlu, GradientsMatchFiniteDifferences) {
  Values gate_up = random_values(1, 3 * 2 * 7, 2.0);
  const Values along = random_values(3, 3 * 7);
  const auto loss = [&] {
    Values hidden(3 * 7);
    kernels::swiglu(kCpu, 3, 7, gate_up.data(), hidden.data());
    return weighted_sum(hidden, along);
  };
  Values gradient(gate_up);
  kernels::swiglu_input_gradient(kCpu, 3, 7, along.data(), gradient.data());
  expect_gradient("gate and up", gate_up, gradient, loss);
}

TEST(SwiGlu, IsFiniteFarFromZero) {
  std::vector<float> gate_up = {-200.0F, 200.0F, 1.0F, 1.0F}, hidden(2);
  const std::vector<float> dhidden = {1.0F, 1.0F};
  kernels::swiglu(kCpu, 1, 2, gate_up.data(), hidden.data());
  EXPECT_EQ(hidden, (std::vector<float>{-0.0F, 200.0F}));
  kernels::swiglu_input_gradient(kCpu, 1, 2, dhidden.data(), gate_up.data());
  EXPECT_EQ(gate_up, (std::vector<float>{0.0F, 1.0F, -0.0F, 200.0F}));
}

// Two experts, the second twice, and one without rows.
class Experts : public testing::Test {
 protected:
  static constexpr kernels::ExpertShape kShape{4, 3};
  static constexpr size_t kRows = 7, kStride = 40;
  const std::vector<kernels::ExpertRows> products = {{0, 0, 2}, {1, 2, 4}, {1, 6, 1}};
  Values weights = random_values(1, 3 * kStride);
  Values x = random_values(2, kRows * 4);
  const Values along = random_values(3, kRows * 4);
  Values gate_up = Values(kRows * 6), hidden = Values(kRows * 3);

  double loss() {
    Values y(kRows * 4, 7.0);
    kernels::experts<double>(kCpu, kShape, {products}, {weights.data(), kStride}, x.data(),
                             gate_up.data(), hidden.data(), y.data());
    return weighted_sum(y, along);
  }
};

class ExpertSums final : public kernels::ExpertGradients<double> {
 public:
  Target begin(uint32_t hosted) override {
    return {sums.data() + hosted * 40, kernels::Into::kAdd};
  }
  Status commit(uint32_t hosted) override {
    committed.push_back(hosted);
    return {};
  }
  Values sums = Values(3 * 40);
  std::vector<uint32_t> committed;
};

TEST_F(Experts, GradientsMatchFiniteDifferences) {
  loss();
  Values dx(x.size(), 7.0), scratch(hidden.size());
  kernels::experts_input_gradient<double>(kCpu, kShape, {products}, {weights.data(), kStride},
                                          along.data(), gate_up.data(), scratch.data(),
                                          dx.data());
  ExpertSums gradients;
  ASSERT_TRUE(kernels::experts_weight_gradient<double>(kCpu, kShape, {products}, x.data(),
                                                       gate_up.data(), along.data(),
                                                       hidden.data(), gradients));
  EXPECT_EQ(gradients.committed, (std::vector<uint32_t>{0, 1, 1}));
  expect_gradient("x", x, dx, [this] { return loss(); });
  expect_gradient("weights", weights, gradients.sums, [this] { return loss(); });
}

struct Routed {
  Values probabilities, logsumexp, gates;
  std::vector<uint32_t> choices, counts;
};
Routed route(RouterShape shape, const Values& logits) {
  Routed r{logits, Values(shape.tokens), Values(shape.tokens * shape.top_k),
           std::vector<uint32_t>(shape.tokens * shape.top_k), std::vector<uint32_t>(shape.experts)};
  kernels::route(kCpu, shape, r.probabilities.data(), r.logsumexp.data(), r.choices.data(),
                 r.gates.data());
  std::vector<uint32_t> rank(r.choices.size());
  kernels::count_choices(kCpu, shape, r.choices.data(), r.counts.data(), rank.data());
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
  double losses[2] = {1, 2};  // they are added
  kernels::router_losses(kCpu, shape, r.probabilities.data(), r.logsumexp.data(), r.counts.data(),
                         {0.5, 0.25}, losses);
  EXPECT_NEAR(losses[0], 1.5, 1e-12);
  EXPECT_NEAR(losses[1], 2 + 0.25 * r.logsumexp[0] * r.logsumexp[0], 1e-9);
  double none[2] = {};
  r.counts.assign(4, 0);
  kernels::router_losses<double>(kCpu, {0, 4, 1}, nullptr, nullptr, r.counts.data(), {1, 1}, none);
  EXPECT_EQ(none[0], 0);
  EXPECT_EQ(none[1], 0);
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
    double losses[2] = {};
    kernels::router_losses(kCpu, shape, r.probabilities.data(), r.logsumexp.data(),
                           r.counts.data(), {0.3, 0.2}, losses);
    return weighted_sum(r.gates, along) + losses[0] + losses[1];
  };
  Values dlogits(logits.size(), 7.0);
  kernels::router_input_gradient(kCpu, shape, at.probabilities.data(), at.logsumexp.data(),
                                 at.choices.data(), at.gates.data(), along.data(),
                                 at.counts.data(), {0.3, 0.2}, dlogits.data());
  expect_gradient("logits", logits, dlogits, loss);
}

TEST(Combine, GradientsMatchFiniteDifferences) {
  const kernels::CombineShape shape{4, 2, 5};
  const std::vector<uint32_t> row = {3, 0, 7, 1, 2, 6, 5, 4};
  Values gates = random_values(1, 8);
  Values rows = random_values(2, 8 * 5);
  const Values along = random_values(3, 4 * 5);
  const auto loss = [&] {
    const Values x(4 * 5, 1.0);
    Values y(4 * 5, 7.0);
    kernels::combine(kCpu, shape, row.data(), gates.data(), rows.data(), x.data(), y.data());
    return weighted_sum(y, along);
  };
  Values drows(rows.size(), 7.0), dgates(gates.size(), 7.0);
  kernels::combine_input_gradient(kCpu, shape, row.data(), gates.data(), rows.data(), along.data(),
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
    kernels::gather_rows(kCpu, {6, 4}, token_of_row.data(), x.data(), sent.data());
    return weighted_sum(sent, along);
  };
  Values dx(x.size(), 7.0);
  kernels::dispatch_input_gradient(kCpu, shape, row_of_choice.data(), along.data(), dx.data());
  expect_gradient("x", x, dx, loss);
}

TEST(Dispatch, ChoicesStandByExpertAndThenInTheirOrder) {
  const RouterShape shape{3, 3, 2};
  const std::vector<uint32_t> choices = {2, 0, 0, 2, 2, 0};
  std::vector<uint32_t> counts(3, 7), rank(6, 7), first(4, 7), row(6, 7), token(6, 7);
  kernels::count_choices(kCpu, shape, choices.data(), counts.data(), rank.data());
  EXPECT_EQ(counts, (std::vector<uint32_t>{3, 0, 3}));
  EXPECT_EQ(rank, (std::vector<uint32_t>{0, 0, 1, 1, 2, 2}));
  kernels::first_rows(kCpu, 3, counts.data(), nullptr, first.data());
  EXPECT_EQ(first, (std::vector<uint32_t>{0, 3, 3, 6}));
  kernels::place_choices(kCpu, shape, choices.data(), rank.data(), first.data(), row.data(),
                         token.data());
  EXPECT_EQ(row, (std::vector<uint32_t>{3, 0, 1, 4, 5, 2}));
  EXPECT_EQ(token, (std::vector<uint32_t>{0, 1, 2, 0, 1, 2}));
}

TEST(Dispatch, ChoicesBeyondCapacityAreDroppedInTheirOrder) {
  const RouterShape shape{3, 3, 2};
  const std::vector<uint32_t> choices = {2, 0, 0, 2, 2, 0}, most = {2, 5, 1};
  std::vector<uint32_t> counts(3, 7), rank(6, 7), first(4, 7), row(6, 7), token(4);
  kernels::count_choices(kCpu, shape, choices.data(), counts.data(), rank.data());
  kernels::first_rows(kCpu, 3, counts.data(), most.data(), first.data());
  EXPECT_EQ(first, (std::vector<uint32_t>{0, 2, 2, 3}));
  kernels::fill_no_rows(kCpu, token.data(), token.size());
  kernels::place_choices(kCpu, shape, choices.data(), rank.data(), first.data(), row.data(),
                         token.data());
  EXPECT_EQ(row, (std::vector<uint32_t>{2, 0, 1, kernels::kNoRow, kernels::kNoRow,
                                        kernels::kNoRow}));
  EXPECT_EQ(token, (std::vector<uint32_t>{0, 1, 0, kernels::kNoRow}));
}

// Token 0 loses its second choice, token 1 both.
TEST(Combine, ADroppedChoiceAddsNothingAndHasNoGradient) {
  const kernels::CombineShape shape{3, 2, 2};
  const std::vector<uint32_t> row = {1, kernels::kNoRow, kernels::kNoRow, kernels::kNoRow, 0, 2};
  const Values gates = {0.5, 0.5, 0.25, 0.75, 0.5, 0.5}, x = {1, 2, 3, 4, 5, 6};
  const Values rows = {10, 20, 30, 40, 50, 60}, dy = {1, 1, 2, 2, 3, 1};
  Values y(6, 7.0), drows(6, 7.0), dgates(6, 7.0), dx(6, 7.0);
  kernels::combine(kCpu, shape, row.data(), gates.data(), rows.data(), x.data(), y.data());
  EXPECT_EQ(y, (Values{1 + 15, 2 + 20, 3, 4, 5 + 30, 6 + 40}));
  kernels::combine_input_gradient(kCpu, shape, row.data(), gates.data(), rows.data(), dy.data(),
                                  drows.data(), dgates.data());
  EXPECT_EQ(drows, (Values{1.5, 0.5, 0.5, 0.5, 1.5, 0.5}));
  EXPECT_EQ(dgates, (Values{70, 0, 0, 0, 50, 210}));
  kernels::dispatch_input_gradient(kCpu, shape, row.data(), rows.data(), dx.data());
  EXPECT_EQ(dx, (Values{30, 40, 0, 0, 60, 80}));
}

TEST(Rows, FromNowhereAreZerosAndToNowhereStay) {
  const std::vector<uint32_t> index = {1, kernels::kNoRow, 0};
  const Values in = {1, 2, 3, 4, 5, 6};
  Values gathered(6, 7.0), scattered(6, 7.0), cleared = in;
  kernels::gather_rows(kCpu, {3, 2}, index.data(), in.data(), gathered.data());
  EXPECT_EQ(gathered, (Values{3, 4, 0, 0, 1, 2}));
  kernels::scatter_rows(kCpu, {3, 2}, index.data(), in.data(), scattered.data());
  EXPECT_EQ(scattered, (Values{5, 6, 1, 2, 7, 7}));
  kernels::clear_rows(kCpu, {3, 2}, index.data(), cleared.data());
  EXPECT_EQ(cleared, (Values{1, 2, 0, 0, 5, 6}));
}

TEST(Rows, ScatterUndoesGather) {
  const std::vector<uint32_t> index = {2, 0, 1};
  const Values in = random_values(1, 3 * 5);
  Values gathered(15), back(15);
  kernels::gather_rows(kCpu, {3, 5}, index.data(), in.data(), gathered.data());
  kernels::scatter_rows(kCpu, {3, 5}, index.data(), gathered.data(), back.data());
  EXPECT_EQ(back, in);
}

}  // namespace
}  // namespace holdfast::train
