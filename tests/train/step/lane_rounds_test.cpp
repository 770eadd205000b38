// A plan as its lanes run it: by hand, and as properties of the plans of jobs.
#include "train/step/lane_rounds.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "tests/train/step/pipeline_harness.h"
#include "train/schedule/text.h"
#include "train/schedule/validate.h"

namespace holdfast::train {
namespace {

Members two_stages() {
  return *members_of(std::vector<uint32_t>{0, 2, 1}, std::vector<uint32_t>{0, 0, 1}, 2);
}

TEST(MembersTest, StandByStageAndPipeline) {
  const Members members = two_stages();
  EXPECT_EQ(members.pipelines, (LanesByStage{{0, 2}, {1}}));
  EXPECT_EQ(members.count(), 3U);
  EXPECT_EQ(members.stage_of(0), 0U);
  EXPECT_EQ(members.stage_of(1), 0U);
  EXPECT_EQ(members.stage_of(2), 1U);
  EXPECT_EQ(members.lane_of(1), 1U);
  EXPECT_EQ(members.lane_of(2), 0U);
  EXPECT_EQ(members.group(0), (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(members.group(1), (std::vector<uint32_t>{2}));
  const Members one = *members_of(std::vector<uint32_t>{0, 3}, {}, 1);
  EXPECT_EQ(one.pipelines, (LanesByStage{{0, 3}}));
  const Members gap = *members_of(std::vector<uint32_t>{0, 0}, std::vector<uint32_t>{0, 2}, 3);
  EXPECT_EQ(gap.stage_of(1), 2U) << "a stage without lanes";
  EXPECT_FALSE(members_of(std::vector<uint32_t>{1, 0}, std::vector<uint32_t>{0, 0}, 1));
  EXPECT_FALSE(members_of(std::vector<uint32_t>{0, 0}, std::vector<uint32_t>{0, 0}, 1));
}

using Numbers = std::vector<std::optional<uint32_t>>;
constexpr auto kNone = std::nullopt;

TEST(LaneRoundsTest, SayWhatComesFromWhereAndGoesWhere) {
  // Lanes 0 and 1 of stage 0 are members 0 and 1; stage 1 is member 2.
  const auto plan = parse_plan(
      "plan pipelines 3 micro-batches 1\n"
      "stage 0 lanes 0 2: F0 F1 | F2 - | I0 - | I2 I1 | W0 W1 e0 | W2 - e1\n"
      "stage 1 lanes 1: F0 | B0 | F1 | F2 | B1 | I2 | W2 e2\n");
  ASSERT_TRUE(plan) << plan.error().to_string();

  const auto first = rounds_of_lane(*plan, two_stages(), 0, 0);
  ASSERT_EQ(first.size(), 6U);
  EXPECT_EQ(first[0].micro_batch, MicroBatchIndex(0));
  EXPECT_EQ(first[0].busy, 2U);
  EXPECT_EQ(first[0].from, kNone);
  EXPECT_EQ(first[0].to, 2U);
  EXPECT_EQ(first[1].busy, 1U);
  EXPECT_EQ(first[2].micro_batch, MicroBatchIndex(0));
  EXPECT_EQ(first[2].from, 2U);
  EXPECT_EQ(first[2].to, kNone);
  EXPECT_EQ(first[2].forward_rounds, (Numbers{0, kNone}));
  EXPECT_FALSE(first[2].as_forward) << "micro-batch 1 ran in that F round, too";
  EXPECT_EQ(first[3].forward_rounds, (Numbers{1, 0}));
  EXPECT_FALSE(first[3].as_forward);
  EXPECT_EQ(first[4].work, Work::kWeightGradient);
  EXPECT_EQ(first[4].micro_batch, kNone);
  EXPECT_EQ(first[4].weights, MicroBatchIndex(0));
  EXPECT_EQ(first[4].experts, std::vector<uint32_t>{0});
  EXPECT_EQ(first[5].experts, std::vector<uint32_t>{1});

  const auto second = rounds_of_lane(*plan, two_stages(), 0, 1);
  EXPECT_EQ(second[1].micro_batch, kNone);
  EXPECT_EQ(second[1].busy, 1U);
  EXPECT_EQ(second[1].to, kNone);
  EXPECT_EQ(second[2].forward_rounds, (Numbers{0, kNone})) << "what other lanes bring is hosted here";
  EXPECT_EQ(second[5].weights, kNone);
  EXPECT_EQ(second[5].experts, std::vector<uint32_t>{1});

  const auto last = rounds_of_lane(*plan, two_stages(), 1, 0);
  ASSERT_EQ(last.size(), 7U);
  EXPECT_EQ(last[1].work, Work::kBackward);
  EXPECT_EQ(last[1].micro_batch, MicroBatchIndex(0));
  EXPECT_EQ(last[1].weights, MicroBatchIndex(0));
  EXPECT_EQ(last[1].from, kNone);
  EXPECT_EQ(last[1].to, 0U);
  EXPECT_TRUE(last[1].as_forward);
  EXPECT_EQ(last[1].experts, std::vector<uint32_t>{0});
  EXPECT_EQ(last[2].from, 1U) << "lane 1 of stage 0 ran micro-batch 1";
  EXPECT_EQ(last[4].experts, std::vector<uint32_t>{1});
  EXPECT_EQ(last[5].forward_rounds, (Numbers{2}));
  EXPECT_EQ(last[5].weights, kNone);
  EXPECT_EQ(last[6].experts, std::vector<uint32_t>{2});
}

TEST(LaneRoundsTest, ALaneMayComputeWeightsBesideOthersForward) {
  const auto good = parse_plan(
      "plan pipelines 2 micro-batches 2\n"
      "stage 0 lanes 0 1: F0 F1 | I0 I1 | F2 W1 | W0 - e0\n");
  ASSERT_TRUE(good) << good.error().to_string();
  const Members members = *members_of(std::vector<uint32_t>{0, 1}, {}, 1);
  const auto rounds = rounds_of_lane(*good, members, 0, 1);
  EXPECT_TRUE(rounds[1].as_forward);
  EXPECT_EQ(rounds[2].work, Work::kForward);
  EXPECT_EQ(rounds[2].micro_batch, kNone);
  EXPECT_EQ(rounds[2].weights, MicroBatchIndex(1));
  EXPECT_EQ(rounds[2].busy, 1U);
}

// What one lane hands over is what another takes, in the same order; and both kinds of I rounds come up.
TEST(LaneRoundsTest, HandOversOfNeighboursPairUp) {
  uint32_t as_forward = 0, assembled = 0, beside = 0;
  for (const uint32_t stages : {2U, 3U, 4U})
    for (uint32_t set = 1; set < 8; ++set)
      for (const uint32_t in_flight : {1U, 0U, 9U}) {
        conf::JobConfig job = pipeline_job(3, stages, true, 3);
        job.micro_batches_in_flight = in_flight;
        LanesByStage lanes = all_lanes(job);
        std::erase_if(lanes[1], [&](uint32_t d) { return (set >> d & 1) == 0; });
        const ViewPlan view = plan_stages(job, lanes);
        const Members members = *members_of(view.coordinates, view.stages, stages);
        const Plan plan = *plan_of_job(job, lanes);
        using Pair = std::pair<uint32_t, uint32_t>;
        std::map<Pair, std::vector<uint32_t>> sent, taken;
        for (uint32_t m = 0; m < members.count(); ++m) {
          const auto rounds =
              rounds_of_lane(plan, members, members.stage_of(m), members.lane_of(m));
          EXPECT_EQ(rounds.size(), plan.stages[members.stage_of(m)].rounds.size());
          std::set<uint32_t> weights, experts;
          uint32_t gradients = 0;
          for (const LaneRound& round : rounds) {
            if (round.to) sent[{m, *round.to}].push_back(round.micro_batch->value);
            if (round.from) taken[{*round.from, m}].push_back(round.micro_batch->value);
            if (round.weights) {
              EXPECT_TRUE(weights.insert(round.weights->value).second);
              if (round.work != Work::kWeightGradient && !round.micro_batch) ++beside;
            }
            for (const uint32_t number : round.experts)
              EXPECT_TRUE(experts.insert(number).second);
            if (round.forward_rounds.empty()) continue;
            ++gradients;
            ++(round.as_forward ? as_forward : assembled);
          }
          EXPECT_EQ(experts.size(), gradients);
          EXPECT_EQ(weights.size(),
                    micro_batches_of(plan, members.stage_of(m), members.lane_of(m)).size());
        }
        EXPECT_EQ(sent, taken);
      }
  EXPECT_GT(as_forward, 1000U);
  EXPECT_GT(assembled, 100U);
  EXPECT_GT(beside, 0U);
}

TEST(MostHeldTest, CountsFromFToTheWThatFreesIt) {
  const auto most = [](const std::string& stage) {
    const auto plan = parse_plan("plan pipelines 1 micro-batches 3\nstage 0 lanes 0: " + stage + "\n");
    CHECK(plan.has_value(), "{}", plan.error().to_string());
    const Members one = *members_of(std::vector<uint32_t>{0}, {}, 1);
    const MostHeld held = most_held(rounds_of_lane(*plan, one, 0, 0));
    return std::pair(held.micro_batches, held.rounds);
  };
  EXPECT_EQ(most("F0 | B0 | F1 | B1 | F2 | B2"), std::pair(1U, 1U));
  EXPECT_EQ(most("F0 | F1 | I0 | W0 e0 | F2 | I1 | W1 e1 | B2"), std::pair(2U, 2U));
  EXPECT_EQ(most("F0 | F1 | F2 | B0 | B1 | B2"), std::pair(3U, 3U));
  EXPECT_EQ(most("F0 | I0 | W0 | F1 | I1 | W1 | F2 | I2 | W2 e0 e1 e2"), std::pair(1U, 3U))
      << "the experts' rows stay";
}

// What lanes wait for before an F is no more than what they may hold.
TEST(MostHeldTest, IsThePeakOfThePlan) {
  for (const uint32_t stages : {2U, 3U, 4U})
    for (const uint32_t in_flight : {0U, 1U, 3U}) {
      conf::JobConfig job = pipeline_job(1, stages);
      job.micro_batches_in_flight = in_flight;
      const Problem problem = problem_of_job(job, all_lanes(job));
      const Plan plan = *plan_of_job(job, all_lanes(job));
      const auto peaks = peak_micro_batches(problem, plan, places_of(plan));
      std::vector<uint32_t> coordinates(stages, 0), of_members(stages);
      std::iota(of_members.begin(), of_members.end(), 0U);
      const Members members = *members_of(coordinates, of_members, stages);
      for (uint32_t s = 0; s < stages; ++s) {
        const MostHeld held = most_held(rounds_of_lane(plan, members, s, 0));
        EXPECT_LE(held.micro_batches, peaks[s][0]) << "stage " << s << " of " << stages;
        EXPECT_LE(held.rounds, peaks[s][0]) << "stage " << s << " of " << stages;
        EXPECT_GT(held.micro_batches, 0U);
      }
    }
}

}  // namespace
}  // namespace holdfast::train
