// The planner on the example of the papers: D = 3, S = 4, M = 6, unit costs, no communication.
// ReCycle (arXiv 2405.14009) draws it; lower figures are better, and none may be below the bound.
#include <gtest/gtest.h>

#include <optional>

#include "train/schedule/normalize.h"
#include "train/schedule/planner.h"

namespace holdfast::train {
namespace {

using Failures = std::vector<std::pair<uint32_t, uint32_t>>;  // pipeline, stage
using Caps = std::vector<uint32_t>;

Problem example(const Failures& failures, const Caps& caps) {
  Problem problem = uniform_problem(3, 4, 6);
  for (uint32_t s = 0; s < 4; ++s) problem.stages[s].cap = caps[s];
  for (const auto& [d, s] : failures) EXPECT_TRUE(remove_lane(problem, d, s));
  return problem;
}

const Caps kBy1f1b = {4, 3, 2, 1};
const Caps kFour = {4, 4, 4, 4};
const Caps kSix = {6, 6, 6, 6};
const Caps kTwelve = {12, 12, 12, 12};

struct Row {
  const char* name;
  Policy policy;
  Failures failures;
  Caps caps;
  double makespan;               // at most
  std::optional<double> period;  // at most
};

TEST(PlannerFigures, EachIsReachedAndNoneIsBelowTheBound) {
  const std::vector<Row> rows = {
      {"fault-free", Policy::kOneForwardOneBackward, {}, kBy1f1b, 27, 27},
      {"fault-free", Policy::kOneForwardOneBackward, {}, kSix, 27, 27},
      {"reroute", Policy::kReroute, {{1, 2}}, kBy1f1b, 36, 36},
      {"reroute", Policy::kReroute, {{1, 2}}, kFour, 33, 33},
      {"split", Policy::kSplit, {{1, 2}}, kSix, 29, 29},
      {"staggered 0", Policy::kStaggered, {{1, 0}}, kSix, 28, 28},
      {"staggered 1", Policy::kStaggered, {{1, 1}}, kSix, 28, 27},
      {"staggered 2", Policy::kStaggered, {{1, 2}}, kSix, 29, 27},
      {"staggered 3", Policy::kStaggered, {{1, 3}}, kSix, 30, 28},
      {"staggered 0, memory", Policy::kStaggered, {{1, 0}}, kTwelve, 28, 27},
      {"staggered 3, memory", Policy::kStaggered, {{1, 3}}, kTwelve, 30, 27},
      {"two, different stages", Policy::kSplit, {{0, 1}, {1, 2}}, kSix, 29, 29},
      {"two, different stages", Policy::kStaggered, {{0, 1}, {1, 2}}, kSix, 29, 27},
      {"two, same stage", Policy::kSplit, {{0, 2}, {1, 2}}, kSix, 56, 56},
      {"two, same stage", Policy::kStaggered, {{0, 2}, {1, 2}}, kSix, 56, 54},
  };
  for (const Row& row : rows) {
    const auto planned = plan_step(example(row.failures, row.caps), row.policy);
    ASSERT_TRUE(planned) << row.name;
    EXPECT_LE(planned->timing.makespan, row.makespan) << row.name;
    EXPECT_GE(planned->timing.makespan, planned->bounds.makespan - 1e-9) << row.name;
    EXPECT_GE(planned->timing.period, planned->bounds.period - 1e-9) << row.name;
    if (row.period) {
      EXPECT_LE(planned->timing.period, *row.period) << row.name;
    }
    for (uint32_t s = 0; s < 4; ++s)
      for (const uint32_t held : planned->timing.peak[s]) EXPECT_LE(held, row.caps[s]) << row.name;
  }
}

// Whoever it is: where a worker fails in its stage group makes no difference.
TEST(PlannerFigures, EveryLaneOfAStageIsAlike) {
  for (uint32_t s = 0; s < 4; ++s)
    for (uint32_t d = 1; d < 3; ++d) {
      const auto first = plan_step(example({{0, s}}, kSix), Policy::kStaggered);
      const auto other = plan_step(example({{d, s}}, kSix), Policy::kStaggered);
      EXPECT_DOUBLE_EQ(first->timing.period, other->timing.period);
      EXPECT_DOUBLE_EQ(first->timing.makespan, other->timing.makespan);
    }
}

// The bound is what DESIGN's formula says, and where memory or the ends of the pipeline forbid
// more.
TEST(PlannerFigures, BoundsByHand) {
  const auto bounds = [](const Failures& failures, const Caps& caps) {
    return lower_bounds(example(failures, caps));
  };
  EXPECT_DOUBLE_EQ(bounds({{1, 2}}, kTwelve).period, 27);       // 9 (F + I + W)
  EXPECT_DOUBLE_EQ(bounds({{1, 2}}, kTwelve).makespan, 29);     // begins at 2
  EXPECT_DOUBLE_EQ(bounds({{0, 2}, {1, 2}}, kSix).period, 54);  // 18 (F + I + W)
  EXPECT_DOUBLE_EQ(bounds({{0, 2}, {1, 2}}, kSix).makespan, 56);
  EXPECT_DOUBLE_EQ(bounds({{1, 0}}, kSix).period, 28);  // six F, then 1 idle until the first I
  EXPECT_DOUBLE_EQ(bounds({{1, 3}}, kSix).period, 28);  // 3 + 9 F + 3 W + 9 I + 3 + W of stage 0
  Problem costly = example({}, kSix);
  for (StageProblem& stage : costly.stages) {
    stage.costs.send = 1;
    stage.costs.update = 2;
  }
  // Stage 0: F, and 6 sends and 3 F and 3 I later the first I, of 6; then W and update.
  EXPECT_DOUBLE_EQ(lower_bounds(costly).period, 18 + (1 + 12 - 6) + 2);
}

TEST(PlannerFigures, TwoFailuresOnOneStageAreTwoOnTwoAfterAMove) {
  const auto proposals =
      propose_moves(example({{0, 2}, {1, 2}}, kSix), Policy::kStaggered, {100, 200, 400, 800});
  ASSERT_TRUE(proposals);
  ASSERT_EQ(proposals->size(), 1u);
  const Proposal& proposal = proposals->front();
  ASSERT_EQ(proposal.moves.size(), 1u);
  EXPECT_EQ(proposal.moves[0].to_stage, 2u);
  EXPECT_EQ(proposal.moves[0].to_pipeline, 0u);
  EXPECT_NE(proposal.moves[0].from_stage, 2u);
  EXPECT_EQ(proposal.bytes, 400u);
  EXPECT_DOUBLE_EQ(proposal.before, 54);
  EXPECT_DOUBLE_EQ(proposal.after, 27);
}

}  // namespace
}  // namespace holdfast::train
