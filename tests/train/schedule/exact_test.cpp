// The fast planner against the true optimum of small problems.
#include "train/schedule/exact.h"

#include <gtest/gtest.h>

#include <random>

#include "train/schedule/validate.h"

namespace holdfast::train {
namespace {

constexpr double kSeconds = 3;

// Whole costs; small enough for the solver.
Problem small_problem(uint32_t seed, bool smallest) {
  std::mt19937 random(seed);
  const auto from = [&](uint32_t least, uint32_t most) {
    return least + static_cast<uint32_t>(random() % (most - least + 1));
  };
  Problem problem =
      uniform_problem(from(1, 3), from(1, smallest ? 3 : 4), from(1, smallest ? 2 : 3));
  for (StageProblem& stage : problem.stages) {
    stage.costs.forward = {static_cast<double>(from(1, 2)), 0};
    stage.costs.input = {static_cast<double>(from(1, 2)), 0};
    stage.costs.weight = {static_cast<double>(from(1, 2)), 0};
    stage.costs.send = from(0, 1);
    stage.costs.update = from(0, 2);
    stage.cap = from(1, 4);
  }
  const uint32_t s = from(0, static_cast<uint32_t>(problem.stages.size()) - 1);
  if (problem.pipelines > 1 && from(0, 2) > 0) {
    EXPECT_TRUE(remove_lane(problem, from(0, problem.pipelines - 1), s));
  }
  return problem;
}

double aim(const Planned& planned) {
  return barrier_of(planned.policy) == Barrier::kPerStage ? planned.timing.period
                                                          : planned.timing.makespan;
}

TEST(ExactPlanner, TheFastPlannerIsHeldAgainstTheOptimum) {
  if (!has_exact_solver()) GTEST_SKIP() << "built without COIN-OR CBC";
  uint32_t solved = 0, equal = 0;
  for (uint32_t seed = 1; seed <= 32; ++seed)
    for (const Policy policy : {Policy::kReroute, Policy::kSplit, Policy::kStaggered}) {
      const Problem problem = small_problem(seed, policy == Policy::kStaggered);
      const auto fast = plan_step(problem, policy);
      ASSERT_TRUE(fast) << "seed " << seed;
      if (gap(*fast) < 1e-9) continue;  // nothing to solve
      const auto exact = plan_exactly(problem, policy, kSeconds);
      if (!exact && exact.error().code == ErrorCode::kSolverLimit) {
        std::printf("seed %u, %s: %s\n", seed, name_of(policy).data(),
                    exact.error().message.c_str());
        continue;
      }
      ASSERT_TRUE(exact) << "seed " << seed << ": " << exact.error().to_string();
      EXPECT_TRUE(validate(problem, exact->plan).empty()) << "seed " << seed;
      ++solved;
      if (aim(*fast) <= aim(*exact) + 1e-6)
        ++equal;
      else
        std::printf("seed %u, %s: fast %g, optimum %g, bound %g/%g\n", seed, name_of(policy).data(),
                    aim(*fast), aim(*exact), exact->bounds.period, exact->bounds.makespan);
      EXPECT_LE(aim(*exact), aim(*fast) + 1e-6) << "seed " << seed;
      EXPECT_LE(aim(*fast), aim(*exact) * 1.1 + 1) << "seed " << seed;
    }
  std::printf("%u of %u fast plans are optimal\n", equal, solved);
  EXPECT_GE(solved, 24u);
  EXPECT_GE(equal, solved * 8 / 10);
}

// Given a plan for a cluster with less memory, it finds the best one by itself.
TEST(ExactPlanner, ImprovesABadPlanToTheOptimum) {
  if (!has_exact_solver()) GTEST_SKIP() << "built without COIN-OR CBC";
  uint32_t improved = 0;
  std::vector<Problem> problems = {uniform_problem(2, 2, 2), uniform_problem(1, 3, 2),
                                   uniform_problem(2, 2, 2)};
  ASSERT_TRUE(remove_lane(problems[0], 1, 1));
  problems[2].stages[1].costs.weight = {2, 0};
  for (const Problem& problem : problems)
    for (const Policy policy : {Policy::kReroute, Policy::kSplit, Policy::kStaggered}) {
      Problem tight = problem;
      for (StageProblem& stage : tight.stages) stage.cap = 1;
      auto start = plan_step(tight, policy);
      const auto best = plan_step(problem, policy);
      ASSERT_NEAR(gap(*best), 0, 1e-9) << "so that the optimum is known";
      start->bounds = best->bounds;
      if (aim(*start) <= aim(*best)) continue;
      ++improved;
      const auto exact = improve_exactly(problem, *start, 20 * kSeconds);

      ASSERT_TRUE(exact) << exact.error().to_string();
      EXPECT_TRUE(validate(problem, exact->plan).empty());
      EXPECT_NEAR(aim(*exact), aim(*best), 1e-6) << name_of(policy);
    }
  EXPECT_GE(improved, 6u);
}

TEST(ExactPlanner, SaysWhatItCannotTake) {
  const auto code = [](const Problem& problem, Policy policy) {
    const auto planned = plan_exactly(problem, policy, kSeconds);
    EXPECT_FALSE(planned);
    return planned ? ErrorCode::kInternal : planned.error().code;
  };
  if (!has_exact_solver()) {
    EXPECT_EQ(code(uniform_problem(2, 2, 1), Policy::kSplit), ErrorCode::kSolverMissing);
    return;
  }
  Problem experts = uniform_problem(2, 2, 1);
  experts.stages[1].costs.forward.expert = 1;
  EXPECT_EQ(code(experts, Policy::kSplit), ErrorCode::kPlanImpossible);
  Problem fractions = uniform_problem(2, 2, 1);
  fractions.stages[0].costs.send = 0.5;
  EXPECT_EQ(code(fractions, Policy::kSplit), ErrorCode::kPlanImpossible);
  EXPECT_EQ(code(uniform_problem(2, 2, 1), Policy::kOneForwardOneBackward),
            ErrorCode::kPlanImpossible);
  EXPECT_EQ(code(uniform_problem(32, 16, 64), Policy::kSplit), ErrorCode::kSolverLimit);
}

}  // namespace
}  // namespace holdfast::train
