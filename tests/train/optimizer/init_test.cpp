// Version 0 is the same whatever P is, and has the spread that the layout asks for.
#include "train/optimizer/init.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace holdfast::train {
namespace {

conf::ModelConfig model() {
  conf::ModelConfig m;
  m.layers = 2;
  m.width = 32;
  return m;
}

TEST(InitTest, SlicesOfAnyNumberMakeTheSameWeights) {
  const ParameterLayout one(model(), 1);
  for (const uint32_t slices : {2u, 3u, 7u}) {
    const ParameterLayout layout(model(), slices);
    for (const GroupSpec& group : layout.groups()) {
      std::vector<float> whole(group.elements), joined(group.elements);
      initial_values(5, group, one.range({group.index, SliceIndex(0)}), whole);
      for (uint32_t s = 0; s < slices; ++s) {
        const ElementRange range = layout.range({group.index, SliceIndex(s)});
        initial_values(5, group, range, std::span(joined).subspan(range.begin, range.size()));
      }
      ASSERT_EQ(whole, joined) << group.name << " in " << slices;
    }
  }
}

TEST(InitTest, NormsAreOnesMatricesNormalSeedsAndGroupsDiffer) {
  const ParameterLayout layout(model(), 1);
  const GroupSpec& group = layout.group(layout.attention(LayerIndex(1)));
  std::vector<float> values(group.elements), other(group.elements);
  initial_values(5, group, {0, group.elements}, values);
  for (const TensorSpec& tensor : group.tensors) {
    double sum = 0, squares = 0;
    for (size_t i = tensor.offset; i < tensor.offset + tensor.elements(); ++i) {
      sum += static_cast<double>(values[i]);
      squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    }
    const auto n = static_cast<double>(tensor.elements());
    if (tensor.init_stddev == 0) {
      EXPECT_EQ(sum, n) << tensor.name;
      continue;
    }
    const double stddev = tensor.init_stddev;
    EXPECT_NEAR(std::sqrt(squares / n), stddev, 5 * stddev / std::sqrt(2 * n)) << tensor.name;
    EXPECT_NEAR(sum / n, 0, 5 * stddev / std::sqrt(n)) << tensor.name;
  }
  initial_values(6, group, {0, group.elements}, other);
  EXPECT_NE(values, other);
  initial_values(5, layout.group(layout.attention(LayerIndex(0))), {0, group.elements}, other);
  EXPECT_NE(values, other);
}

}  // namespace
}  // namespace holdfast::train
