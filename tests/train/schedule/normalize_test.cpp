// Moves of healthy workers: only when they help, never a stage's last lane, to dead lanes only.
#include "train/schedule/normalize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace holdfast::train {
namespace {

Problem with_failures(uint32_t pipelines, uint32_t stages, uint32_t micro_batches,
                      const std::vector<std::pair<uint32_t, uint32_t>>& failures) {
  Problem problem = uniform_problem(pipelines, stages, micro_batches);
  for (const auto& [d, s] : failures) EXPECT_TRUE(remove_lane(problem, d, s));
  return problem;
}

TEST(Normalize, NothingIsProposedWhereNothingHelps) {
  EXPECT_TRUE(propose_moves(with_failures(3, 4, 6, {}), Policy::kStaggered, {})->empty());
  EXPECT_TRUE(propose_moves(with_failures(3, 4, 6, {{0, 1}}), Policy::kStaggered, {})->empty());
  EXPECT_TRUE(
      propose_moves(with_failures(3, 4, 6, {{0, 1}, {2, 2}}), Policy::kStaggered, {})->empty());
  EXPECT_TRUE(propose_moves(with_failures(2, 1, 4, {{0, 0}}), Policy::kSplit, {})->empty());
}

TEST(Normalize, MoreMovesOnlyForMoreGain) {
  // Three of four dead at stage 1: one move halves its work, a second one brings it to 3/4.
  const Problem problem = with_failures(4, 3, 8, {{0, 1}, {1, 1}, {3, 1}});
  const auto proposals = propose_moves(problem, Policy::kStaggered, {});
  ASSERT_TRUE(proposals);
  ASSERT_EQ(proposals->size(), 2u);
  EXPECT_EQ(proposals->at(0).moves.size(), 1u);
  EXPECT_EQ(proposals->at(1).moves.size(), 2u);
  EXPECT_NEAR(proposals->at(0).before, 96, 1);
  EXPECT_NEAR(proposals->at(0).after, 48, 1.5);
  EXPECT_NEAR(proposals->at(1).after, 33, 1.5);
  EXPECT_EQ(proposals->at(1).bytes, 0u) << "not known";
}

TEST(Normalize, AWorkerIsMovedFromTheStageThatCanSpareIt) {
  Problem problem = with_failures(4, 3, 8, {{0, 1}, {1, 1}});
  problem.stages[0].costs.forward = {0.25, 0};  // stage 0 is fast
  problem.stages[0].costs.weight = {0.25, 0};
  const auto proposals = propose_moves(problem, Policy::kStaggered, {});
  ASSERT_TRUE(proposals);
  ASSERT_FALSE(proposals->empty());
  for (const Move& move : proposals->front().moves) EXPECT_EQ(move.from_stage, 0u);
}

TEST(Normalize, EveryProposalIsAPlanThatHelps) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    const uint32_t pipelines = 2 + random() % 3, stages = 2 + random() % 3;
    Problem problem = uniform_problem(pipelines, stages, 1 + random() % 5);
    for (int i = 0; i < 4; ++i) {
      const uint32_t s = random() % stages, d = random() % pipelines;
      if (problem.stages[s].lanes.size() > 1) (void)remove_lane(problem, d, s);
    }
    const auto proposals = propose_moves(problem, Policy::kStaggered, {});
    ASSERT_TRUE(proposals) << "seed " << seed;
    double last = plan_step(problem, Policy::kStaggered)->timing.period;
    for (const Proposal& proposal : *proposals) {
      const Problem moved = with_moves(problem, proposal.moves);
      ASSERT_TRUE(check_problem(moved)) << "seed " << seed;
      size_t before = 0, after = 0;
      for (uint32_t s = 0; s < stages; ++s) {
        before += problem.stages[s].lanes.size();
        after += moved.stages[s].lanes.size();
      }
      EXPECT_EQ(before, after) << "seed " << seed;
      EXPECT_LT(proposal.after, last) << "seed " << seed;
      EXPECT_DOUBLE_EQ(plan_step(moved, Policy::kStaggered)->timing.period, proposal.after);
      last = proposal.after;
    }
  }
}

}  // namespace
}  // namespace holdfast::train
