// Finite differences in double precision: a gradient that was computed against one that was
// measured.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <vector>

namespace holdfast::train {

inline std::vector<double> random_values(uint64_t seed, size_t count, double scale = 1.0) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<double> values(count);
  for (double& value : values) value = normal(random);
  return values;
}

// The scalar that the checks differentiate: any y is turned into one by fixed random weights.
inline double weighted_sum(std::span<const double> y, std::span<const double> weights) {
  double sum = 0;
  for (size_t i = 0; i < y.size(); ++i) sum += y[i] * weights[i];
  return sum;
}

// `gradient` of `loss` by x, which `loss` reads: every element, or about `limit` spread evenly.
inline void expect_gradient(const char* what, std::span<double> x, std::span<const double> gradient,
                            const std::function<double()>& loss, size_t limit = 400,
                            double tolerance = 1e-6) {
  ASSERT_EQ(x.size(), gradient.size()) << what;
  const double h = 1e-5;
  const size_t stride = x.size() / limit + 1;
  for (size_t i = 0; i < x.size(); i += stride) {
    const double kept = x[i];
    x[i] = kept + h;
    const double above = loss();
    x[i] = kept - h;
    const double below = loss();
    x[i] = kept;
    const double measured = (above - below) / (2 * h);
    EXPECT_NEAR(gradient[i], measured, tolerance * std::max(1.0, std::abs(measured)))
        << what << ", element " << i << " of " << x.size();
  }
}

}  // namespace holdfast::train
