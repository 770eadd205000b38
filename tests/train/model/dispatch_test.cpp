// The plan of dispatch and combine: every choice reaches a lane that holds its expert, once.
#include "train/model/dispatch.h"

#include <gtest/gtest.h>

#include "tests/train/model/random_group.h"
#include "train/placement/capacity.h"

namespace holdfast::train {
namespace {

// What arrives, when every sent row is labelled with (source lane, token, expert).
struct Label {
  size_t lane = 0, token = 0;
  uint32_t expert = 0;
};

void check_group(const RandomGroup& group, bool reproducible) {
  const auto lanes = static_cast<uint32_t>(group.choices.size());
  std::vector<DispatchPlan> plans;
  std::vector<std::vector<Label>> sent(lanes);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    plans.push_back(plan_dispatch(group.choices[lane], group.top_k, group.counts, group.placement,
                                  {lane, reproducible, group.most_E}));
    const DispatchPlan& plan = plans.back();
    sent[lane].resize(plan.sent());
    std::vector<bool> used(plan.sent());
    std::vector<uint32_t> kept(group.experts);
    for (size_t i = 0; i < group.choices[lane].size(); ++i) {
      const uint32_t e = group.choices[lane][i];
      if (kept[e] == group.kept(lane, e)) {
        ASSERT_EQ(plan.row_of_choice[i], kernels::kNoRow) << "beyond capacity";
        continue;
      }
      ++kept[e];
      ASSERT_LT(plan.row_of_choice[i], plan.sent()) << "the first choices are kept";
      ASSERT_FALSE(used[plan.row_of_choice[i]]) << "two choices in one row";
      used[plan.row_of_choice[i]] = true;
      ASSERT_EQ(plan.token_of_row[plan.row_of_choice[i]], i / group.top_k);
      sent[lane][plan.row_of_choice[i]] = {lane, i / group.top_k, group.choices[lane][i]};
    }
  }
  std::vector<size_t> next(lanes);  // of every source: its next unsent row
  for (uint32_t host = 0; host < lanes; ++host) {
    const DispatchPlan& plan = plans[host];
    std::vector<Label> ordered(plan.received());
    size_t row = 0;
    for (uint32_t source = 0; source < lanes; ++source) {
      ASSERT_EQ(plans[source].sent_rows[host], plan.received_rows[source]);
      for (size_t i = 0; i < plan.received_rows[source]; ++i)
        ordered[plan.place_of_row[row++]] = sent[source][next[source]++];
    }
    const std::vector<ExpertIndex> held = hosted_experts(group.placement, host);
    size_t begin = 0;
    for (const kernels::ExpertRows& product : plan.products) {
      ASSERT_EQ(product.begin, begin);
      ASSERT_GT(product.rows, 0U);
      ASSERT_LT(product.hosted, held.size());
      const ExpertIndex expert = held[product.hosted];
      for (size_t i = 0; i < product.rows; ++i) {
        const Label& label = ordered[begin + i];
        ASSERT_EQ(label.expert, expert.value);
        if (i == 0) continue;
        const Label& before = ordered[begin + i - 1];
        ASSERT_TRUE(before.lane < label.lane ||
                    (before.lane == label.lane && before.token <= label.token));
        if (reproducible) {
          ASSERT_EQ(before.lane, label.lane);
        }
      }
      if (reproducible) {
        ASSERT_EQ(product.rows, group.kept(ordered[begin].lane, expert.value))
            << "a micro-batch's rows for one expert are one product";
      }
      begin += product.rows;
    }
    ASSERT_EQ(begin, plan.received());
  }
}

TEST(Dispatch, EveryChoiceReachesItsExpertOnce) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const RandomGroup group = random_group(seed, seed % 2 == 0);
    for (const bool reproducible : {false, true}) {
      check_group(group, reproducible);
      if (HasFatalFailure()) return;
    }
  }
}

// What a step reports comes from the counts alone.
TEST(Dispatch, DropsAsManyChoicesAsFollowFromTheirCounts) {
  uint64_t all_dropped = 0;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const RandomGroup group = random_group(seed, true);
    for (uint32_t lane = 0; lane < group.choices.size(); ++lane) {
      const DispatchPlan plan = plan_dispatch(group.choices[lane], group.top_k, group.counts,
                                              group.placement, {lane, false, group.most_E});
      std::vector<uint64_t> chosen(group.experts), dropped(group.experts);
      for (size_t i = 0; i < group.choices[lane].size(); ++i) {
        ++chosen[group.choices[lane][i]];
        if (plan.row_of_choice[i] == kernels::kNoRow) ++dropped[group.choices[lane][i]];
      }
      EXPECT_EQ(dropped_choices({0, {group.most_E}}, chosen), dropped);
      for (const uint64_t count : dropped) all_dropped += count;
    }
  }
  EXPECT_GT(all_dropped, 1000U);
}

LayerPlacement twice_on_three_lanes() {
  return {{{ExpertIndex(0), ExpertIndex(1)},
           {ExpertIndex(1), ExpertIndex(1)},
           {ExpertIndex(1), ExpertIndex(2)}}};
}

TEST(Dispatch, SpreadsAnExpertsRowsEvenlyOverItsSlots) {
  const std::vector<uint32_t> choices(8, 1);
  const std::vector<uint32_t> counts = {0, 8, 0, 0, 0, 0, 0, 0, 0};
  const DispatchPlan plan = plan_dispatch(choices, 1, counts, twice_on_three_lanes(), {0, false});
  EXPECT_EQ(plan.sent_rows, (std::vector<size_t>{2, 4, 2}));  // lane 1 holds two of four slots
}

TEST(Dispatch, ReproducibleModeSendsAnExpertsRowsToOneSlot) {
  const std::vector<uint32_t> choices(8, 1);
  const std::vector<uint32_t> counts = {0, 8, 0, 0, 8, 0, 0, 8, 0};
  const LayerPlacement placement = twice_on_three_lanes();
  const auto sent = [&](uint32_t lane) {
    return plan_dispatch(choices, 1, counts, placement, {lane, true}).sent_rows;
  };
  EXPECT_EQ(sent(0), (std::vector<size_t>{8, 0, 0}));
  EXPECT_EQ(sent(1), (std::vector<size_t>{0, 8, 0}));
  EXPECT_EQ(sent(2), (std::vector<size_t>{0, 8, 0}));
}

}  // namespace
}  // namespace holdfast::train
