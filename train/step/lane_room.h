// How much memory a lane takes at its start, so that it can adopt its share when `tolerate` lanes of
// the job are lost. Pure.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conf/job_config.h"
#include "train/model/parameter_layout.h"

namespace holdfast::train {

struct LaneRoom {
  uint32_t lanes = 1;          // of a stage that are left then
  size_t shard_elements = 0;   // owned; each has three runs in two banks
  size_t hosted_elements = 0;  // of the groups that it computes with: weights and gradients
  size_t summed_elements = 0;  // gradients of what it owns; none where a lane is alone
  uint64_t shard_bytes() const { return shard_elements * 2 * 3 * sizeof(float); }
};

// Of the stage that needs most, as a lane may come to any of them. An even share of its shards and one of
// the largest more, never more than all; a lane that owns more than that (see
// daemon/coordinator/decide.cpp) takes the rest when it comes to it.
LaneRoom lane_room(const ParameterLayout& layout, const conf::JobConfig& job);

}  // namespace holdfast::train
