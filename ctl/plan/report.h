// A plan for people and programs: the four outputs of `holdfastctl plan`. Pure: text in memory.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ctl/plan/request.h"
#include "train/schedule/normalize.h"
#include "train/schedule/planner.h"

namespace holdfast::ctl {

struct PlanReport {
  PlanRequest request;
  std::string solver;
  train::Planned planned;
  std::optional<double> fault_free_period;  // with every lane live, when some are not
  std::vector<train::Proposal> proposals;
};

std::string plan_table(const PlanReport& report);  // at most 80 columns
std::string plan_json(const PlanReport& report);   // one line
std::string plan_svg(const PlanReport& report);    // a Gantt chart
std::string plan_trace(const PlanReport& report);  // Chrome's trace events, for Perfetto

// Shared by them.
std::string number_text(double value);  // up to two digits after the point, none that are 0
std::string lane_text(uint32_t pipeline, uint32_t stage);  // "1:2"
// "staggered, 3 pipelines of 4 stages, 6 micro-batches each"
std::string plan_title(const PlanReport& report);

}  // namespace holdfast::ctl
