// Rooms of fixed size bring every kept choice to the place where a plan of the hosts puts it.
#include "tests/train/model/rooms_kit.h"
#include "train/model/dispatch.h"

namespace holdfast::train {
namespace {

// What a lane has in expert order, and where each expert begins.
struct Ordered {
  std::vector<Row> rows;
  std::vector<uint32_t> first_row;
};

Ordered in_order(const Arrival& arrival) {
  Ordered ordered{std::vector<Row>(arrival.begin_HC1.back(), kNothing), arrival.first_row};
  for (size_t r = 0; r < arrival.received.size(); ++r)
    if (arrival.place_of_row[r] != kernels::kNoRow)
      ordered.rows.at(arrival.place_of_row[r]) = arrival.received[r];
  return ordered;
}

// The same by plan_dispatch.
std::vector<Ordered> planned(const RandomGroup& group) {
  const auto lanes = static_cast<uint32_t>(group.choices.size());
  std::vector<DispatchPlan> plans;
  std::vector<std::vector<Row>> sent(lanes);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    plans.push_back(plan_dispatch(group.choices[lane], group.top_k, group.counts, group.placement,
                                  {lane, false, group.most_E}));
    sent[lane].resize(plans[lane].sent());
    for (uint32_t i = 0; i < group.choices[lane].size(); ++i)
      if (plans[lane].row_of_choice[i] != kernels::kNoRow)
        sent[lane][plans[lane].row_of_choice[i]] = {lane, i};
  }
  std::vector<Ordered> all(lanes);
  std::vector<size_t> next(lanes);
  for (uint32_t host = 0; host < lanes; ++host) {
    const DispatchPlan& plan = plans[host];
    all[host].rows.resize(plan.received());
    size_t row = 0;
    for (uint32_t source = 0; source < lanes; ++source)
      for (size_t i = 0; i < plan.received_rows[source]; ++i)
        all[host].rows[plan.place_of_row[row++]] = sent[source][next[source]++];
    std::vector<uint32_t>& first = all[host].first_row;
    first.resize(hosted_experts(group.placement, host).size() + 1);
    for (const kernels::ExpertRows& product : plan.products)
      first[product.hosted + 1] = static_cast<uint32_t>(product.rows);
    std::partial_sum(first.begin(), first.end(), first.begin());
  }
  return all;
}

TEST(Rooms, BringEveryKeptChoiceWhereAPlanOfTheHostsPutsIt) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const RandomGroup group =
        seed < 10 ? large_group(seed, 4, 6, 300, 2) : random_group(seed, true);
    std::vector<SendingLane> lanes;
    for (uint32_t lane = 0; lane < group.choices.size(); ++lane)
      lanes.push_back(send_rooms(group, lane));
    const std::vector<Ordered> expected = planned(group);
    for (uint32_t host = 0; host < lanes.size(); ++host) {
      const Ordered ordered = in_order(receive_rooms(lanes, host));
      ASSERT_EQ(ordered.rows, expected[host].rows);
      ASSERT_EQ(ordered.first_row, expected[host].first_row);
    }
  }
}

// As behind an exchange that was broken off.
TEST(Rooms, HoldNoMoreThanTheirSizeWhateverTheHeadsSay) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const RandomGroup group = random_group(seed, true);
    std::vector<SendingLane> lanes;
    for (uint32_t lane = 0; lane < group.choices.size(); ++lane) {
      lanes.push_back(send_rooms(group, lane));
      for (Row& row : lanes.back().sent) row = {0xffffffff - lane, 0xfffffffe};
    }
    for (uint32_t host = 0; host < lanes.size(); ++host) {
      const Arrival arrival = receive_rooms(lanes, host);
      ASSERT_LE(arrival.begin_HC1.back(), arrival.received.size());
      for (const uint32_t place : arrival.place_of_row)
        ASSERT_TRUE(place == kernels::kNoRow || place < arrival.begin_HC1.back());
    }
  }
}

TEST(Rooms, KnowTheTokenOfEachRowAndDropTheLastChoices) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const RandomGroup group = random_group(seed, true);
    for (uint32_t lane = 0; lane < group.choices.size(); ++lane) {
      const SendingLane sent = send_rooms(group, lane);
      std::vector<uint32_t> kept(group.experts), expected(sent.sent.size(), kernels::kNoRow);
      for (size_t i = 0; i < group.choices[lane].size(); ++i) {
        const uint32_t e = group.choices[lane][i];
        ASSERT_EQ(sent.row_of_choice[i] == kernels::kNoRow, kept[e] == group.most_E[e]);
        if (sent.row_of_choice[i] == kernels::kNoRow) continue;
        ++kept[e];
        expected.at(sent.row_of_choice[i]) = static_cast<uint32_t>(i / group.top_k);
      }
      ASSERT_EQ(sent.token_of_row, expected);
    }
  }
}

// Expert 1 has four slots, two of them on lane 1; each lane's chunk begins with one row of head.
TEST(Rooms, HaveTheMostRowsThatAnEvenSplitBrings) {
  const LayerPlacement placement{{{ExpertIndex(0), ExpertIndex(1)},
                                  {ExpertIndex(1), ExpertIndex(1)},
                                  {ExpertIndex(1), ExpertIndex(2)}}};
  const std::vector<uint32_t> most = {5, 6, 7};
  const FixedRooms rooms = plan_rooms(placement, 1, most, 1);
  EXPECT_EQ(rooms.sent_rows, (std::vector<size_t>{1 + 5 + 2, 1 + 3, 1 + 2 + 7}));
  EXPECT_EQ(rooms.received_rows, (std::vector<size_t>{4, 4, 4}));
  EXPECT_EQ(rooms.chunk_C, (std::vector<uint32_t>{0, 8, 12}));
  EXPECT_EQ(rooms.first_slot_E1, (std::vector<uint32_t>{0, 1, 5, 6}));
  EXPECT_EQ(rooms.room_S, (std::vector<uint32_t>{1, 6, 9, 9, 13, 15}));
  EXPECT_EQ(rooms.room_begin_S, (std::vector<uint32_t>{0, 0, 1, 1, 3, 0}));
  EXPECT_EQ(rooms.expert_H, (std::vector<uint32_t>{1}));
  EXPECT_EQ(rooms.begin_H, (std::vector<uint32_t>{1}));
  EXPECT_EQ(rooms.end_H, (std::vector<uint32_t>{3}));
  EXPECT_EQ(rooms.room_H1, (std::vector<uint32_t>{1, 4}));
}

}  // namespace
}  // namespace holdfast::train
