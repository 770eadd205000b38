// The rules that every plan keeps (docs/plans.md). Pure.
#pragma once

#include <string>
#include <vector>

#include "train/schedule/places.h"
#include "train/schedule/problem.h"

namespace holdfast::train {

// Every way in which `plan` breaks a rule, in words; empty: it may run.
//   once          each micro-batch does F, I and dense W exactly once at every stage, on one live
//   lane experts       the expert W of every I round is done exactly once, later order         F
//   before I before W; F after F of the stage before, I after I of the stage after memory        no
//   lane holds more micro-batches than its cap streams       sends and receives pair up: see
//   order_violations
std::vector<std::string> validate(const Problem& problem, const Plan& plan);

// Parts of validate, for plans whose cells are in order.
//
// order_violations: between two neighbouring stages there is one stream in each direction. A lane
// sends its results in the order of its rounds and receives in the order of its rounds; a transfer
// goes when all before it on both lanes have gone and the receiver has come to the round that needs
// it (no buffering). Rounds wait for what they receive, not for what they send. Names a round that
// would wait for itself.
std::vector<std::string> order_violations(const Plan& plan, const std::vector<StagePlaces>& places);
std::vector<std::string> memory_violations(const Problem& problem, const Plan& plan,
                                           const std::vector<StagePlaces>& places);
// By stage and lane: micro-batches that it holds at most.
std::vector<std::vector<uint32_t>> peak_micro_batches(const Problem& problem, const Plan& plan,
                                                      const std::vector<StagePlaces>& places);

}  // namespace holdfast::train
