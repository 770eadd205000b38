// Causal grouped-query attention: against a plain loop, and its backward by finite differences.
#include <gtest/gtest.h>

#include "tests/train/kernels/gradient_check.h"
#include "train/kernels/ops.h"

namespace holdfast::train {
namespace {

using kernels::AttentionShape;
using Values = std::vector<double>;

class Attention : public testing::TestWithParam<AttentionShape> {
 protected:
  AttentionShape s = GetParam();
  size_t tokens = s.sequences * s.context;
  Values q = random_values(1, tokens* s.heads* s.head_width);
  Values k = random_values(2, tokens* s.kv_heads* s.head_width);
  Values v = random_values(3, tokens* s.kv_heads* s.head_width);
  Values probabilities = Values(s.probabilities());
  Values out = Values(q.size());

  void forward() {
    kernels::attention(s, q.data(), k.data(), v.data(), probabilities.data(), out.data());
  }
};
INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         testing::Values(AttentionShape{1, 1, 1, 1, 2},
                                         AttentionShape{2, 5, 4, 2, 4},
                                         AttentionShape{1, 7, 3, 1, 6},
                                         AttentionShape{2, 4, 2, 2, 2},
                                         AttentionShape{0, 4, 2, 2, 2}));

TEST_P(Attention, IsAPlainSoftmaxOverThePast) {
  forward();
  const size_t share = s.heads / s.kv_heads;
  for (size_t n = 0; n < tokens; ++n) {
    const size_t first = n / s.context * s.context;
    for (size_t h = 0; h < s.heads; ++h) {
      const double* query = &q[(n * s.heads + h) * s.head_width];
      double sum = 0;
      Values expected(s.head_width);
      for (size_t past = first; past <= n; ++past) {
        const size_t at = (past * s.kv_heads + h / share) * s.head_width;
        double score = 0;
        for (size_t a = 0; a < s.head_width; ++a) score += query[a] * k[at + a];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(s.head_width)));
        sum += weight;
        for (size_t a = 0; a < s.head_width; ++a) expected[a] += weight * v[at + a];
      }
      for (size_t a = 0; a < s.head_width; ++a)
        EXPECT_NEAR(out[(n * s.heads + h) * s.head_width + a], expected[a] / sum, 1e-12);
    }
  }
}

TEST_P(Attention, GradientsMatchFiniteDifferences) {
  const Values along = random_values(4, out.size());
  const auto loss = [&] {
    forward();
    return weighted_sum(out, along);
  };
  loss();
  Values dq(q.size(), 7.0), dk(k.size(), 7.0), dv(v.size(), 7.0);
  kernels::attention_input_gradient(s, along.data(), q.data(), k.data(), v.data(),
                                    probabilities.data(), dq.data(), dk.data(), dv.data());
  expect_gradient("q", q, dq, loss);
  expect_gradient("k", k, dk, loss);
  expect_gradient("v", v, dv, loss);
}

}  // namespace
}  // namespace holdfast::train
