// The update against its formula in double precision, whole and in slices; the learning rate by hand.
#include "train/optimizer/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace holdfast::train {
namespace {

TEST(LearningRateTest, WarmsUpLinearlyThenFollowsACosine) {
  conf::OptimizerConfig o;
  o.learning_rate = 1.0;
  o.min_learning_rate = 0.2;
  o.warmup_steps = 4;
  constexpr uint64_t kSteps = 13;  // the cosine goes from step 4 to step 12
  EXPECT_DOUBLE_EQ(learning_rate(o, kSteps, Step(0)), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(o, kSteps, Step(3)), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(o, kSteps, Step(4)), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(o, kSteps, Step(8)), 0.6);
  EXPECT_NEAR(learning_rate(o, kSteps, Step(12)), 0.2, 1e-15);
  EXPECT_NEAR(learning_rate(o, kSteps, Step(100)), 0.2, 1e-15) << "beyond the end it stays";
  o.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate(o, kSteps, Step(0)), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, Step(0)), 1.0) << "a job of one step";
}

struct State {
  explicit State(size_t n) : master(n), m(n), v(n) {}
  ShardView view() { return {master, m, v}; }
  ShardView view(size_t begin, size_t count) {
    return {std::span(master).subspan(begin, count), std::span(m).subspan(begin, count),
            std::span(v).subspan(begin, count)};
  }
  std::vector<float> master, m, v;
};

class AdamwTest : public ::testing::Test {
 protected:
  AdamwTest() {
    conf::ModelConfig model;
    model.layers = 1;
    model.width = 8;
    model.heads = 2;
    model.kv_heads = 1;
    model.experts = 2;
    const ParameterLayout layout(model, 1);
    group_ = layout.group(layout.attention(LayerIndex(0)));  // a norm, then matrices
    optimizer_.weight_decay = 0.3;
  }
  void run(const AdamwStep& step, ElementRange range, const ShardView& now,
              const float* gradient, const ShardView& next) {
    std::vector<kernels::AdamwRange<float>> ranges;
    append_ranges<float>(optimizer_, group_, range, now, gradient, next, nullptr, ranges);
    kernels::adamw(kernels::Cpu{}, adamw_constants(optimizer_, step), ranges);
  }
  GroupSpec group_;
  conf::OptimizerConfig optimizer_;
};

TEST_F(AdamwTest, FollowsTheFormulaAndDecaysMatricesOnly) {
  const size_t n = group_.elements;
  ASSERT_EQ(group_.tensors[0].name, "norm");
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  State now(n), next(n);
  std::vector<double> master(n), m(n), v(n);
  for (size_t i = 0; i < n; ++i) master[i] = now.master[i] = normal(random);
  for (uint64_t update = 1; update <= 5; ++update) {
    const AdamwStep step{0.01 * static_cast<double>(update), 0.5, update};
    std::vector<float> gradient(n);
    for (float& g : gradient) g = normal(random);
    run(step, {0, n}, now.view(), gradient.data(), next.view());
    for (size_t i = 0; i < n; ++i) {
      const double g = 0.5 * static_cast<double>(gradient[i]);
      m[i] = optimizer_.beta1 * m[i] + (1 - optimizer_.beta1) * g;
      v[i] = optimizer_.beta2 * v[i] + (1 - optimizer_.beta2) * g * g;
      const double u = static_cast<double>(update);
      const double m_hat = m[i] / (1 - std::pow(optimizer_.beta1, u));
      const double v_hat = v[i] / (1 - std::pow(optimizer_.beta2, u));
      const double decay = i < 8 ? 0 : optimizer_.weight_decay;  // the norm is 8 wide
      master[i] -= step.learning_rate * (m_hat / (std::sqrt(v_hat) + optimizer_.epsilon) +
                                         decay * master[i]);
      ASSERT_NEAR(next.master[i], master[i], 2e-6 * (1 + std::abs(master[i]))) << i;
      ASSERT_NEAR(next.m[i], m[i], 1e-6) << i;
      ASSERT_NEAR(next.v[i], v[i], 1e-6) << i;
    }
    std::swap(now, next);
  }
}

TEST_F(AdamwTest, SlicesGiveBitForBitWhatTheWholeGroupGives) {
  const size_t n = group_.elements;
  std::mt19937_64 random(4);
  std::normal_distribution<float> normal;
  State now(n), whole(n), sliced(n);
  std::vector<float> gradient(n);
  for (size_t i = 0; i < n; ++i) {
    now.master[i] = normal(random);
    gradient[i] = normal(random);
  }
  const AdamwStep step{0.01, 1, 1};
  run(step, {0, n}, now.view(), gradient.data(), whole.view());
  for (size_t begin = 0; begin < n;) {
    const size_t count = std::min<size_t>(n - begin, 1 + random() % 40);
    run(step, {begin, begin + count}, now.view(begin, count), gradient.data() + begin,
           sliced.view(begin, count));
    begin += count;
  }
  EXPECT_EQ(whole.master, sliced.master);
  EXPECT_EQ(whole.m, sliced.m);
  EXPECT_EQ(whole.v, sliced.v);
}

}  // namespace
}  // namespace holdfast::train
