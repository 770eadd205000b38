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
  const kernels::Cpu cpu{};
  AttentionShape s = GetParam();
  size_t tokens = s.tokens();
  Values qkv = random_values(1, tokens* s.packed_width());
  Values kept = Values(kernels::attention_kept(cpu, s));
  Values out = Values(tokens * s.width());

  void forward() { kernels::attention(cpu, s, qkv.data(), kept.data(), out.data()); }
  // One head of one token: queries first, then keys, then values.
  const double* query(size_t n, size_t h) const {
    return &qkv[n * s.packed_width() + h * s.head_width];
  }
  const double* key(size_t n, size_t g) const { return query(n, s.heads + g); }
  const double* value(size_t n, size_t g) const { return query(n, s.heads + s.kv_heads + g); }
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
      const double* q = query(n, h);
      double sum = 0;
      Values expected(s.head_width);
      for (size_t past = first; past <= n; ++past) {
        const double* k = key(past, h / share);
        const double* v = value(past, h / share);
        double score = 0;
        for (size_t a = 0; a < s.head_width; ++a) score += q[a] * k[a];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(s.head_width)));
        sum += weight;
        for (size_t a = 0; a < s.head_width; ++a) expected[a] += weight * v[a];
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
  Values dqkv(qkv.size(), 7.0);
  kernels::attention_input_gradient(cpu, s, along.data(), qkv.data(), out.data(), kept.data(),
                                    dqkv.data());
  expect_gradient("q, k, v", qkv, dqkv, loss);
}

}  // namespace
}  // namespace holdfast::train
