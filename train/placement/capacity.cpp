#include "train/placement/capacity.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "train/placement/placement.h"

namespace holdfast::train {
namespace {

// A factor such as 1.1 is no binary number: what a product of it is off by does not round up.
constexpr double kRounding = 1e-9;

}  // namespace

std::vector<uint32_t> capacity_of_experts(const CapacityRule& rule,
                                          std::span<const uint64_t> popularity) {
  CHECK(rule.factor > 0 && rule.slots > 0);
  std::vector<uint32_t> most;
  const double choices = static_cast<double>(rule.tokens) * rule.top_k;
  for (const uint32_t budget : slots_by_popularity(popularity, rule.slots)) {
    const double share = rule.factor * choices * budget / rule.slots;
    most.push_back(static_cast<uint32_t>(
        std::min(static_cast<double>(rule.tokens), std::ceil(share * (1 - kRounding)))));
  }
  return most;
}

Capacity static_capacity(uint32_t layers, uint32_t experts, const CapacityRule& rule) {
  const std::vector<uint64_t> equal(experts, 1);
  return {rule.tokens,
          std::vector<std::vector<uint32_t>>(layers, capacity_of_experts(rule, equal))};
}

std::vector<uint64_t> dropped_choices(const Capacity& capacity,
                                      std::span<const uint64_t> choices_LE) {
  std::vector<uint64_t> dropped;
  for (const std::vector<uint32_t>& most_E : capacity.most_LE)
    for (const uint64_t most : most_E) {
      const uint64_t chosen = choices_LE[dropped.size()];
      dropped.push_back(chosen > most ? chosen - most : 0);
    }
  CHECK(dropped.size() == choices_LE.size());
  return dropped;
}

}  // namespace holdfast::train
