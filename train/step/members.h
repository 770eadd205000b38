// The members of a view as stage groups. Members are numbered by (stage, pipeline): those of a stage
// stand together, and lane i of its group is the i-th of them. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/schedule/job_plan.h"

namespace holdfast::train {

struct Members {
  LanesByStage pipelines;       // of the lanes of each stage, ascending
  std::vector<uint32_t> first;  // the member that is lane 0 of each stage

  uint32_t stages() const { return static_cast<uint32_t>(first.size()); }
  uint32_t lanes(uint32_t stage) const { return static_cast<uint32_t>(pipelines[stage].size()); }
  uint32_t count() const { return first.back() + lanes(stages() - 1); }
  uint32_t member(uint32_t stage, uint32_t lane) const { return first[stage] + lane; }
  uint32_t stage_of(uint32_t member) const;
  uint32_t lane_of(uint32_t member) const { return member - first[stage_of(member)]; }
  // Of a stage, ascending.
  std::vector<uint32_t> group(uint32_t stage) const;
};

// coordinates and stages by member; no stages: all are of the first. kPlanImpossible when they are not in
// order or a stage is none of the job's.
Result<Members> members_of(std::span<const uint32_t> coordinates,
                           std::span<const uint32_t> stages, uint32_t job_stages);

}  // namespace holdfast::train
