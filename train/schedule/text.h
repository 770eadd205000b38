// Plans as text, for people, logs and tests (docs/plans.md): one line a stage,
//   plan pipelines 3 micro-batches 1
//   stage 0 lanes 0 2: F0 F1 | F2 - | I0 I1 | I2 W1 | W0 - e0 | W2 - e1
// A lane without a micro-batch is `-`; e0 are the expert weight gradients of I round 0.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "train/schedule/plan.h"

namespace holdfast::train {

char letter(Work work);
std::string to_text(const Cell& cell);         // "F7"
std::string to_text(const StageRound& round);  // "F0 - F2"
std::string to_text(const Plan& plan);         // ends with a newline
// kPlanText with the line and the word that cannot be read. Whether the plan makes sense is a
// question for validate().
Result<Plan> parse_plan(std::string_view text);

}  // namespace holdfast::train
