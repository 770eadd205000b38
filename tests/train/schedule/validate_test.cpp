// Every rule of validate, by a plan that breaks only it; and the times of small plans, by hand.
#include "train/schedule/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train/schedule/simulate.h"
#include "train/schedule/text.h"

namespace holdfast::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Plan plan_of(const std::string& stages, const char* head = "plan pipelines 1 micro-batches 2\n") {
  const auto plan = parse_plan(head + stages);
  EXPECT_TRUE(plan) << plan.error().to_string();
  return *plan;
}

constexpr const char* kGood =
    "stage 0 lanes 0: F0 | F1 | I0 | W0 e0 | I1 | W1 e1\n"
    "stage 1 lanes 0: F0 | I0 | F1 | I1 | W0 e0 e1 | W1\n";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Validate, AGoodPlanHasNoViolations) {
  EXPECT_THAT(validate(uniform_problem(1, 2, 2), plan_of(kGood)), IsEmpty());
}

// What to change in the good plan, and what is said then.
TEST(Validate, EachRuleIsNamedWhenItIsBroken) {
  const Problem problem = uniform_problem(1, 2, 2);
  const std::vector<std::array<const char*, 3>> cases = {
      {"F0 | F1", "F0 | F0", "stage 0: F0 is done 2 times"},
      {"F0 | F1", "F0 | -", "stage 0: F1 is done 0 times"},
      {"| I1 | W1 e1", "| I1 | - e1", "stage 0: W1 is done 0 times"},
      {"F0 | F1 | I0", "I0 | F1 | F0", "stage 0: I0 is not after F0"},
      {"I0 | W0 e0", "W0 | I0 e0", "stage 0: W0 is not after I0"},
      {"W1 e1\n", "W1\n", "stage 0: e1 is named 0 times"},
      {"W1 e1\n", "W1 e1 e0\n", "stage 0: e0 is named 2 times"},
      {"W1 e1\n", "W1 e1 e2\n", "stage 0 round 5: e2, there are 2 I rounds"},
      {"F1 | I0 | W0 e0", "F1 e0 | I0 | W0", "stage 0 round 1: e0 is not after I round 0"},
      {"I1 | W1 e1", "B1 e1 | -", "stage 0: e1 is named 1 times, its round is a B round"},
      {"F0 | F1", "F0 | F7", "stage 0 round 1: F7, there are 2 micro-batches"},
      {"stage 1 lanes 0: F0 | I0 | F1 | I1", "stage 1 lanes 0: F1 | I1 | F0 | I0",
       "never begins: sends and receives are in orders that wait for each other"},
  };
  for (const auto& [from, to, says] : cases)
    EXPECT_THAT(validate(problem, plan_of(replaced(kGood, from, to))),
                ::testing::Contains(HasSubstr(says)))
        << to;
}

TEST(Validate, ADependencyThatIsACycleIsNamed) {
  const Plan plan = plan_of(
      "stage 0 lanes 0: F0 | I0 | W0 e0 | F1 | I1 | W1 e1\n"
      "stage 1 lanes 0: F0 | F1 | I0 | I1 | W0 e0 | W1 e1\n");
  EXPECT_THAT(validate(uniform_problem(1, 2, 2), plan),
              ElementsAre(HasSubstr("stage 0 round 1 (I0) never begins: it waits for itself"),
                          HasSubstr("stage 1 round 1 (F1) never begins: it waits for itself")));
}

// Data alone would allow it: lane 0 of stage 0 sends 0 and then 2, both to stage 1's only lane,
// which wants 2 first and cannot put 0 aside.
TEST(Validate, OrdersOfSendsAndReceivesThatBlockEachOtherAreNamed) {
  Problem problem = uniform_problem(2, 2, 2);
  ASSERT_TRUE(remove_lane(problem, 1, 1));
  const char* head = "plan pipelines 2 micro-batches 2\n";
  const std::string first =
      "stage 0 lanes 0 1: F0 F1 | F2 F3 | I0 I1 | I2 I3 | W0 W1 e0 | W2 W3 e1\n";
  const std::string end = " | W0 e0 | W1 e1 | W2 e2 | W3 e3\n";
  const std::string good = first + "stage 1 lanes 0: F0 | F1 | F2 | F3 | I0 | I1 | I2 | I3" + end;
  EXPECT_THAT(validate(problem, plan_of(good, head)), IsEmpty());
  const std::string bad = replaced(good, "F0 | F1 | F2", "F2 | F1 | F0");
  EXPECT_THAT(
      validate(problem, plan_of(bad, head)),
      ::testing::Contains(HasSubstr("stage 1 round 0 (F2) never begins: sends and receives")));
}

// Orders agree on every stream, but 2 goes behind 0, and 0 would have to lie ready at a receiver
// that only wants it after 2.
TEST(Validate, AReceiverBuffersNothing) {
  const char* head = "plan pipelines 2 micro-batches 2\n";
  const std::string good =
      "stage 0 lanes 0 1: F0 F1 | F2 F3 | I0 I1 | I2 I3 | W0 W1 e0 | W2 W3 e1\n"
      "stage 1 lanes 0 1: F0 F1 | - F2 | F3 - | I0 I1 | I3 I2 | W0 W1 e0 | W3 W2 e1\n";
  EXPECT_THAT(validate(uniform_problem(2, 2, 2), plan_of(good, head)), IsEmpty());
  const std::string bad = replaced(good, "F0 F1 | - F2 | F3 -", "- F2 | F0 F1 | F3 -");
  EXPECT_THAT(validate(uniform_problem(2, 2, 2), plan_of(bad, head)),
              ::testing::Contains(HasSubstr("stage 1 round 0 (- F2) never begins: sends")));
}

TEST(Validate, MemoryLanesAndSizesAreChecked) {
  Problem problem = uniform_problem(1, 2, 2);
  problem.stages[0].cap = 1;
  EXPECT_THAT(validate(problem, plan_of(kGood)),
              ElementsAre("lane 0:0 holds 2 micro-batches, its cap is 1"));
  // Where there are experts their W holds memory too: 0 is held until e0, and then 1 begins too
  // early.
  problem.stages[0].cap = 2;
  problem.stages[1].cap = 1;
  const std::string late =
      "stage 0 lanes 0: F0 | F1 | I0 | W0 e0 | I1 | W1 e1\n"
      "stage 1 lanes 0: F0 | I0 | W0 | F1 | I1 | W1 e0 e1\n";
  EXPECT_THAT(validate(problem, plan_of(late)), IsEmpty());
  problem.stages[1].costs.weight.expert = 1;
  EXPECT_THAT(validate(problem, plan_of(late)),
              ElementsAre("lane 0:1 holds 2 micro-batches, its cap is 1"));
  EXPECT_THAT(validate(uniform_problem(1, 3, 2), plan_of(kGood)),
              ElementsAre("it has 2 stages, not 3"));
  EXPECT_THAT(validate(uniform_problem(1, 2, 3), plan_of(kGood)),
              ElementsAre(HasSubstr("not 1 of 3")));
  EXPECT_THAT(validate(uniform_problem(2, 2, 1), plan_of(kGood)),
              ::testing::Contains("stage 0: its lanes are not the live ones"));
  const Plan ragged = plan_of("stage 0 lanes 0: F0 F1\n");
  EXPECT_THAT(validate(uniform_problem(1, 1, 2), ragged),
              ElementsAre("stage 0 round 0: 2 entries for 1 lanes"));
}

TEST(Validate, AMicroBatchStaysOnItsLane) {
  const Plan plan = plan_of("stage 0 lanes 0 1: F0 F1 | I1 I0 | W0 W1 e0\n",
                            "plan pipelines 2 micro-batches 1\n");
  EXPECT_THAT(validate(uniform_problem(2, 1, 1), plan),
              ElementsAre("stage 0: micro-batch 0 changes its lane",
                          "stage 0: micro-batch 1 changes its lane"));
}

TEST(Simulate, TimesByHand) {
  StageCosts costs;
  costs.forward = {1, 0};
  costs.input = {2, 0};
  costs.weight = {3, 0};
  costs.send = 0.5;
  costs.update = 4;
  const Problem problem = uniform_problem(1, 2, 2, costs);
  const Timing timing = simulate(problem, plan_of(kGood), Barrier::kPerStage);
  // Stage 1: F0 1.5-2.5, I0 -4.5, F1 -5.5, I1 -7.5, W0 -10.5, W1 -13.5, update -17.5.
  EXPECT_THAT(timing.start[1], ElementsAre(1.5, 2.5, 4.5, 5.5, 7.5, 10.5));
  // Stage 0: F0 0-1, F1 -2, I0 5-7, W0 -10, I1 -12, W1 -15, update -19.
  EXPECT_THAT(timing.start[0], ElementsAre(0, 1, 5, 7, 10, 12));
  EXPECT_DOUBLE_EQ(timing.makespan, 19);
  // Stage 0 spans 19 whatever the other does; with the barrier the same, as it is the last.
  EXPECT_DOUBLE_EQ(timing.period, 19);
  EXPECT_DOUBLE_EQ(simulate(problem, plan_of(kGood), Barrier::kGlobal).period, 19);
  EXPECT_THAT(timing.peak, ElementsAre(ElementsAre(2), ElementsAre(2)));
}

// Stage 1 is long and stage 0 short: staggered, only stage 1's own span counts; with the barrier
// stage 0's head start is waited for in every step.
TEST(Simulate, TheBarrierCostsTheStagger) {
  Problem problem = uniform_problem(1, 2, 1);
  problem.stages[1].costs.weight = {5, 0};
  const Plan plan = plan_of("stage 0 lanes 0: F0 | I0 | W0 e0\nstage 1 lanes 0: F0 | I0 | W0 e0\n",
                            "plan pipelines 1 micro-batches 1\n");
  EXPECT_DOUBLE_EQ(simulate(problem, plan, Barrier::kPerStage).period, 7);
  EXPECT_DOUBLE_EQ(simulate(problem, plan, Barrier::kGlobal).period, 8);
}

// The period is what repeating the step comes to: three steps one after the other, by data flow.
TEST(Simulate, ThePeriodIsThatOfRepeatedSteps) {
  Problem problem = uniform_problem(1, 2, 2);
  problem.stages[0].costs.send = 2;
  const double period = simulate(problem, plan_of(kGood), Barrier::kPerStage).period;
  // Stage 0: F0 F1, waits until 6, I0 W0 I1 W1: 9 wide... each later step begins as soon as it
  // ends.
  std::vector<double> start0, start1;
  double ready0 = 0, ready1 = 0;
  for (int step = 0; step < 20; ++step) {
    start0.push_back(ready0);
    const double f0 = ready0 + 1, f1 = f0 + 1;
    const double a = std::max(ready1, f0 + 2) + 1, i0 = a + 1;  // stage 1: F0 I0
    const double b = std::max(i0, f1 + 2) + 1, i1 = b + 1;      // F1 I1
    ready1 = i1 + 2;
    const double w0 = std::max(f1, i0) + 2;  // stage 0: I0 W0
    ready0 = std::max(w0, i1) + 2;
  }
  EXPECT_DOUBLE_EQ(period, (start0[19] - start0[9]) / 10);
}

// Half of a round's cost is experts: with one of two lanes busy only a quarter of it is left of
// them.
TEST(Simulate, ExpertsCostEveryLaneTheShareOfTheBusyOnes) {
  StageCosts costs;
  costs.forward = costs.input = costs.weight = {1, 1};
  const Problem problem = [&] {
    Problem p = uniform_problem(3, 1, 1, costs);
    EXPECT_TRUE(remove_lane(p, 2, 0));
    return p;
  }();
  const Plan plan = plan_of("stage 0 lanes 0 1: F0 F1 | F2 - | I0 I1 | I2 W1 | W0 - e0 | W2 - e1\n",
                            "plan pipelines 3 micro-batches 1\n");
  ASSERT_THAT(validate(problem, plan), IsEmpty());
  EXPECT_THAT(simulate(problem, plan, Barrier::kPerStage).duration,
              ElementsAre(ElementsAre(2, 1.5, 2, 1.5, 2, 1.5)));
}

}  // namespace
}  // namespace holdfast::train
