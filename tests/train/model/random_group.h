// A stage group that has chosen: any placement, some lanes without tokens, experts that nobody
// chose.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "train/kernels/shapes.h"
#include "train/placement/placement.h"

namespace holdfast::train {

struct RandomGroup {
  LayerPlacement placement;
  uint32_t experts;
  uint32_t top_k;
  std::vector<std::vector<uint32_t>> choices;  // [lane]
  std::vector<uint32_t> counts;                // [lane * E + e]
  std::vector<uint32_t> most_E;                // empty: dropless

  kernels::RouterShape shape(size_t lane) const {
    return {choices[lane].size() / top_k, experts, top_k};
  }
  uint32_t kept(size_t lane, uint32_t e) const {
    const uint32_t count = counts[lane * experts + e];
    return most_E.empty() ? count : std::min(count, most_E[e]);
  }
};

inline RandomGroup random_group(uint64_t seed, bool capacity) {
  std::mt19937_64 random(seed);
  RandomGroup group;
  const auto lanes = static_cast<uint32_t>(1 + random() % 4);
  group.experts = static_cast<uint32_t>(1 + random() % 6);
  group.top_k = static_cast<uint32_t>(1 + random() % group.experts);
  const uint32_t slots = (group.experts + lanes - 1) / lanes + static_cast<uint32_t>(random() % 3);
  group.placement.slots.resize(lanes);
  for (uint32_t slot = 0; slot < lanes * slots; ++slot)
    group.placement.slots[slot / slots].push_back(
        ExpertIndex(slot < group.experts ? slot : static_cast<uint32_t>(random() % group.experts)));
  group.counts.resize(size_t{lanes} * group.experts);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    group.choices.emplace_back();
    for (uint64_t tokens = random() % 12; tokens > 0; --tokens)
      for (uint32_t k = 0; k < group.top_k; ++k) {
        const auto e = static_cast<uint32_t>(random() % group.experts);
        group.choices.back().push_back(e);
        ++group.counts[lane * group.experts + e];
      }
  }
  if (capacity)
    for (uint32_t e = 0; e < group.experts; ++e)
      group.most_E.push_back(static_cast<uint32_t>(random() % 7));
  return group;
}

// Every lane has tokens, experts have three slots a lane between them, half of what is chosen fits.
inline RandomGroup large_group(uint64_t seed, uint32_t lanes, uint32_t experts, size_t tokens,
                               uint32_t top_k) {
  std::mt19937_64 random(seed);
  RandomGroup group;
  group.experts = experts;
  group.top_k = top_k;
  group.placement.slots.resize(lanes);
  for (uint32_t slot = 0; slot < 3 * lanes; ++slot)
    group.placement.slots[slot / 3].push_back(ExpertIndex(slot % experts));
  group.counts.resize(size_t{lanes} * experts);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    group.choices.emplace_back();
    for (size_t i = 0; i < tokens * top_k; ++i) {
      const auto e = static_cast<uint32_t>(random() % experts);
      group.choices.back().push_back(e);
      ++group.counts[lane * experts + e];
    }
  }
  for (uint32_t e = 0; e < experts; ++e)
    group.most_E.push_back(static_cast<uint32_t>(random() % (2 * tokens * top_k / experts)));
  return group;
}

}  // namespace holdfast::train
