// `holdfastctl plan`: from the words of the command line to a problem for the planner.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "train/schedule/problem.h"

namespace holdfast::ctl {

struct PlanArguments {
  uint32_t pipelines = 0;
  uint32_t stages = 0;
  uint32_t micro_batches = 0;
  std::string fail;         // "1:2,0:3": pipeline and stage, from 0
  std::string caps;         // "6", or one a stage
  std::string costs;        // "F,I,W,comm,update", or one such group a stage with / between
  double expert_share = 0;  // of F, I and W
  std::string stage_bytes;  // "20GiB", or one a stage: state of a lane, for moves
  std::string policy = "staggered";
  std::string solver = "fast";
  double seconds = 60;  // for the exact solver
  std::string output = "table";
};

struct PlanRequest {
  train::Problem problem;
  train::Policy policy = train::Policy::kStaggered;
  std::vector<std::pair<uint32_t, uint32_t>> failures;  // pipeline, stage
  std::vector<uint64_t> stage_bytes;                    // empty: not known
  bool caps_given = false;
};

// kUsage with the option and the word that cannot be read; kPlanImpossible when it can, but no plan
// is possible.
Result<PlanRequest> read_request(const PlanArguments& arguments);

}  // namespace holdfast::ctl
