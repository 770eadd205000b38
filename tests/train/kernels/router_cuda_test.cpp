// The router on an accelerator: the CPU's probabilities, the most probable experts with the lower
// id among equals, exact counts and ranks, and both losses with their gradients.
#include <numeric>

#include "tests/train/kernels/cuda_reference.h"

namespace holdfast::train::kernels {
namespace {

const std::vector<RouterShape> kShapes = {
    {0, 16, 2},  {1, 1, 1},     {1, 2, 1},    {7, 3, 3},     {100, 16, 2},  {33, 64, 8},
    {50, 33, 5}, {20, 100, 16}, {9, 256, 16}, {300, 256, 1}, {4097, 64, 8}, {32768, 16, 2}};

std::string name(RouterShape s) {
  return std::to_string(s.tokens) + " tokens, " + std::to_string(s.experts) + " experts, top " +
         std::to_string(s.top_k);
}

class RouterCuda : public CudaTest {
 protected:
  struct Routed {
    std::vector<float> probabilities, logsumexp, gates;
    std::vector<uint32_t> choices;
  };
  Routed routed(RouterShape shape, const std::vector<float>& logits) {
    auto probabilities = to_device(logits);
    auto logsumexp = poisoned<float>(shape.tokens);
    auto choices = poisoned<uint32_t>(shape.choices());
    auto gates = poisoned<float>(shape.choices());
    route(cuda(), shape, probabilities.data(), logsumexp.data(), choices.data(), gates.data());
    return {to_host(probabilities), to_host(logsumexp), to_host(gates), to_host(choices)};
  }
  // Every fifth expert is hardly ever chosen.
  static std::vector<float> logits(RouterShape shape) {
    std::mt19937 random(static_cast<unsigned>(shape.tokens * 3 + shape.experts));
    std::vector<float> values = random_values(random, shape.tokens * shape.experts, 2.0F);
    for (size_t i = 0; i < values.size(); ++i)
      if (i % shape.experts % 5 == 3) values[i] -= 30.0F;
    return values;
  }
  // By descending probability, the lower id first among equals.
  static void expect_best(RouterShape shape, const Routed& r) {
    std::vector<uint32_t> order(shape.experts);
    for (size_t n = 0; n < shape.tokens; ++n) {
      const float* p = r.probabilities.data() + n * shape.experts;
      std::iota(order.begin(), order.end(), 0U);
      std::stable_sort(order.begin(), order.end(),
                       [p](uint32_t a, uint32_t b) { return p[a] > p[b]; });
      for (size_t k = 0; k < shape.top_k; ++k)
        ASSERT_EQ(r.choices[n * shape.top_k + k], order[k]) << "token " << n << ", choice " << k;
    }
  }
};

TEST_F(RouterCuda, ChoosesTheMostProbable) {
  for (const RouterShape shape : kShapes) {
    SCOPED_TRACE(name(shape));
    const std::vector<float> in = logits(shape);
    const Routed r = routed(shape, in);
    std::vector<double> p = doubles(in), logsumexp(shape.tokens), gates(shape.choices());
    std::vector<uint32_t> choices(shape.choices());
    route<double>(Cpu{}, shape, p.data(), logsumexp.data(), choices.data(), gates.data());
    EXPECT_LT(relative_error(r.probabilities, p), kFloatTolerance);
    EXPECT_LT(relative_error(r.logsumexp, logsumexp), kFloatTolerance);
    expect_best(shape, r);
    std::vector<double> expected(shape.choices());
    for (size_t n = 0; n < shape.tokens; ++n) {
      double sum = 0;
      for (size_t i = n * shape.top_k; i < (n + 1) * shape.top_k; ++i)
        sum += expected[i] = p[n * shape.experts + r.choices[i]];
      if (shape.top_k > 1)
        for (size_t i = n * shape.top_k; i < (n + 1) * shape.top_k; ++i) expected[i] /= sum;
    }
    EXPECT_LT(relative_error(r.gates, expected), kFloatTolerance);
    const Routed again = routed(shape, in);
    expect_same_bits(r.probabilities, again.probabilities);
    expect_same_bits(r.gates, again.gates);
    EXPECT_EQ(r.choices, again.choices);
  }
}

TEST_F(RouterCuda, LowerIdAmongEquals) {
  for (const RouterShape shape : kShapes) {
    SCOPED_TRACE(name(shape));
    std::mt19937 random(5);
    std::vector<float> in(shape.tokens * shape.experts);
    for (float& value : in) value = static_cast<float>(random() % 3);
    std::fill(in.begin(), in.begin() + static_cast<long>(std::min(in.size(), shape.experts)), 0.5F);
    expect_best(shape, routed(shape, in));
  }
}

TEST_F(RouterCuda, CountsAndRanksAreExact) {
  for (const RouterShape shape : kShapes) {
    SCOPED_TRACE(name(shape));
    std::vector<double> p = doubles(logits(shape)), logsumexp(shape.tokens), gates(shape.choices());
    std::vector<uint32_t> choices(shape.choices());
    route<double>(Cpu{}, shape, p.data(), logsumexp.data(), choices.data(), gates.data());
    std::vector<uint32_t> expected_counts(shape.experts), expected_rank(shape.choices());
    count_choices(Cpu{}, shape, choices.data(), expected_counts.data(), expected_rank.data());
    const auto device_choices = to_device(choices);
    auto counts = poisoned<uint32_t>(shape.experts);
    auto rank = poisoned<uint32_t>(shape.choices());
    count_choices(cuda(), shape, device_choices.data(), counts.data(), rank.data());
    EXPECT_EQ(to_host(counts), expected_counts);
    EXPECT_EQ(to_host(rank), expected_rank);
  }
}

TEST_F(RouterCuda, LossesAreAdded) {
  for (const RouterShape shape : kShapes) {
    SCOPED_TRACE(name(shape));
    const Routed r = routed(shape, logits(shape));
    std::vector<uint32_t> counts(shape.experts), rank(shape.choices());
    count_choices(Cpu{}, shape, r.choices.data(), counts.data(), rank.data());
    const RouterLosses weights = {0.02, 0.003};
    std::vector<double> expected = {1.5, -2.5};
    router_losses<double>(Cpu{}, shape, doubles(r.probabilities).data(),
                          doubles(r.logsumexp).data(), counts.data(), weights, expected.data());
    const auto probabilities = to_device(r.probabilities);
    const auto logsumexp = to_device(r.logsumexp);
    const auto device_counts = to_device(counts);
    std::vector<double> first;
    for (int run = 0; run < 2; ++run) {
      auto losses = to_device(std::vector<double>{1.5, -2.5});
      router_losses(cuda(), shape, probabilities.data(), logsumexp.data(), device_counts.data(),
                    weights, losses.data());
      const std::vector<double> got = to_host(losses);
      EXPECT_NEAR(got[0], expected[0], 1e-12);
      EXPECT_NEAR(got[1], expected[1], 1e-12);
      if (run == 0)
        first = got;
      else
        expect_same_bits(first, got);
    }
  }
}

TEST_F(RouterCuda, GradientOfGatesAndOfEachLoss) {
  struct Case {
    float gates;
    double load_balance, z;
  };
  for (const RouterShape shape : kShapes) {
    const Routed r = routed(shape, logits(shape));
    std::vector<uint32_t> counts(shape.experts), rank(shape.choices());
    count_choices(Cpu{}, shape, r.choices.data(), counts.data(), rank.data());
    const auto probabilities = to_device(r.probabilities);
    const auto logsumexp = to_device(r.logsumexp);
    const auto choices = to_device(r.choices);
    const auto gates = to_device(r.gates);
    const auto device_counts = to_device(counts);
    std::mt19937 random(11);
    const double tokens = static_cast<double>(shape.tokens);
    for (const Case& part : {Case{1, 0, 0}, {0, tokens, 0}, {0, 0, tokens}, {1, tokens, tokens}}) {
      SCOPED_TRACE(name(shape) + ", gates " + std::to_string(part.gates) + ", balance " +
                   std::to_string(part.load_balance) + ", z " + std::to_string(part.z));
      const RouterLosses scale = {part.load_balance, part.z};
      const std::vector<float> dgates = random_values(random, shape.choices(), part.gates);
      const auto device_dgates = to_device(dgates);
      std::vector<double> expected(shape.tokens * shape.experts);
      router_input_gradient<double>(Cpu{}, shape, doubles(r.probabilities).data(),
                                    doubles(r.logsumexp).data(), r.choices.data(),
                                    doubles(r.gates).data(), doubles(dgates).data(), counts.data(),
                                    scale, expected.data());
      std::vector<Bf16> first;
      for (int run = 0; run < 2; ++run) {
        auto dlogits = poisoned<Bf16>(shape.tokens * shape.experts);
        router_input_gradient(cuda(), shape, probabilities.data(), logsumexp.data(), choices.data(),
                              gates.data(), device_dgates.data(), device_counts.data(), scale,
                              dlogits.data());
        const std::vector<float> got = to_host_float(dlogits);
        // With one expert, or all chosen alike, what is left of the gates' gradient is rounding.
        double largest = 0;
        for (const double value : expected) largest = std::max(largest, std::abs(value));
        if (largest > 1e-5) {
          EXPECT_LT(relative_error(got, expected), kBf16Tolerance);
        } else {
          for (const float value : got) ASSERT_LT(std::abs(value), 2e-5F);
        }
        if (run == 0)
          first = to_host(dlogits);
        else
          expect_same_bits(first, to_host(dlogits));
      }
    }
  }
}

TEST_F(RouterCuda, TooManyExpertsAreAnErrorThatIsNamed) {
  auto opened = Cuda::open(0);
  ASSERT_TRUE(opened);
  route(**opened, {1, 257, 1}, nullptr, nullptr, nullptr, nullptr);
  const Status status = (*opened)->finish();
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().to_string().find("route"), std::string::npos);
}

}  // namespace
}  // namespace holdfast::train::kernels
