// Capacity mode: how many choices of one micro-batch each expert takes at most (DESIGN.md, section
// 7). A property of the job, not of who is alive, so that losses do not depend on failures. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"

namespace holdfast::train {

struct CapacityRule {
  double factor;   // of the even share, > 0
  uint32_t slots;  // D * k, those of the job's nominal lanes
  size_t tokens;   // N, of a micro-batch
  uint32_t top_k;  // K
};

// of each expert: min(N, ceil(factor * N * K * b_e / slots)), where SYMI's rule gives it b_e of the
// slots by popularity [E]. No more than N: a token chooses an expert once. At least 1 with tokens.
std::vector<uint32_t> capacity_of_experts(const CapacityRule& rule,
                                          std::span<const uint64_t> popularity);

// Of every MoE layer, for micro-batches of N tokens.
struct Capacity {
  size_t tokens = 0;
  std::vector<std::vector<uint32_t>> most_LE;

  std::span<const uint32_t> of(LayerIndex layer) const { return most_LE[layer.value]; }
  bool operator==(const Capacity&) const = default;
};
// With all experts equally popular in every layer: what goes with static placement.
Capacity static_capacity(uint32_t layers, uint32_t experts, const CapacityRule& rule);

// Choices beyond capacity: of [L * E] choices of one micro-batch, as MicroBatchLoss::popularity.
std::vector<uint64_t> dropped_choices(const Capacity& capacity,
                                      std::span<const uint64_t> choices_LE);

}  // namespace holdfast::train
