#include "daemon/coordinator/decide.h"

#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

const StateVersion kBase{Version(5), Epoch{7, 1}};

NodeId node(uint32_t n) { return NodeId("node-" + std::to_string(n)); }

DecideInput input_of(uint32_t nodes, uint32_t slots, uint32_t shards) {
  DecideInput input;
  input.epoch = {7, 2};
  input.job.name = JobId("a");
  input.job.pipelines = nodes * slots;
  input.job.shards = shards;
  input.replicas = 1;
  input.shards = {std::vector<uint64_t>(shards, 100), std::vector<StageIndex>(shards)};
  for (uint32_t n = 0; n < nodes; ++n) {
    for (uint32_t slot = 0; slot < slots; ++slot) input.workers.push_back({node(n), slot});
    input.nodes.push_back({node(n), node(n).value, 1'000'000});
  }
  return input;
}

TEST(Decide, ANodeWithTwoWorkersNeedsRoomForBothAtItsHolders) {
  DecideInput input = input_of(3, 2, 6);
  // Each worker owns one shard: three versions of two are 600 bytes. node-1 has room for its own and
  // one worker's more, not for both of a node.
  input.nodes[1].arena_bytes = 900;
  const Decision decision = decide(input, Holdings(6));
  for (const Member& m : decision.view.members)
    EXPECT_EQ(std::count(m.holders.begin(), m.holders.end(), node(1)), 0) << m.worker.node.value;
  std::map<NodeId, std::vector<NodeId>> holders;
  for (const Member& m : decision.view.members) {
    EXPECT_EQ(m.holders.size(), 1U);
    EXPECT_EQ(holders.try_emplace(m.worker.node, m.holders).first->second, m.holders)
        << "workers of a node share its holders";
  }
}

class DecideAfterAFailedFetch : public testing::Test {
 protected:
  DecideAfterAFailedFetch() : input_(input_of(3, 1, 3)), holdings_(3) {
    input_.workers.resize(2);  // node-2 has an arena, but no worker
    input_.history = {{Epoch{7, 1}, StateVersion{}}};
    holdings_.add_buffer({node(0), 0}, {{kBase, {0}}});
    holdings_.add_buffer({node(1), 0}, {{kBase, {1}}});
    input_.unreached = {{node(0), node(2)}};
  }
  // Who gets shard 2, and from where.
  std::pair<NodeId, NodeId> shard_2() {
    const Decision decision = decide(input_, holdings_);
    EXPECT_EQ(decision.view.base, kBase);
    const uint32_t lane = decision.view.owner_lane[2];
    for (const SourcedShard& s : decision.owned[lane])
      if (s.shard == 2) return {decision.view.members[lane].worker.node, s.from};
    return {};
  }
  DecideInput input_;
  Holdings holdings_;
};

TEST_F(DecideAfterAFailedFetch, AnotherOwnerIsPreferred) {
  holdings_.add_arena(node(2), {{kBase, {2}}});
  EXPECT_EQ(shard_2(), std::pair(node(1), node(2)));
}

TEST_F(DecideAfterAFailedFetch, AnotherSourceIsPreferred) {
  input_.workers = {{node(0), 0}};
  holdings_.add_buffer({node(0), 0}, {{kBase, {1}}});
  holdings_.add_arena(node(1), {{kBase, {2}}});
  holdings_.add_arena(node(2), {{kBase, {2}}});  // by number this one's turn
  EXPECT_EQ(shard_2(), std::pair(node(0), node(1)));
}

TEST_F(DecideAfterAFailedFetch, TheOnlyCopyIsTriedAgain) {
  input_.workers = {{node(0), 0}};
  holdings_.add_buffer({node(0), 0}, {{kBase, {1}}});
  holdings_.add_arena(node(2), {{kBase, {2}}});
  EXPECT_EQ(shard_2(), std::pair(node(0), node(2)));
}

// node-1's worker is gone. node-0 holds its own shard at versions 4 and 5, and a replica of the other at
// version 4; version 5 of that lies in node-1's arena only.
class DecideByCost : public testing::Test {
 protected:
  DecideByCost() : input_(input_of(2, 1, 2)), holdings_(2) {
    input_.workers.resize(1);
    input_.history = {{Epoch{7, 1}, StateVersion{}}};
    input_.safe = kOlder;
    input_.fetch_bytes_per_second = 50;  // a shard takes 2 s
    input_.step_seconds = 1;
    holdings_.add_buffer({node(0), 0}, {{kOlder, {0}}, {kBase, {0}}});
    holdings_.add_arena(node(0), {{kOlder, {0, 1}}});
    holdings_.add_arena(node(1), {{kBase, {1}}});
  }
  View view() const { return decide(input_, holdings_).view; }
  static constexpr StateVersion kOlder{Version(4), Epoch{7, 1}};
  DecideInput input_;
  Holdings holdings_;
};

TEST_F(DecideByCost, AStepDoneAgainIsCheaperThanALongFetch) {
  EXPECT_EQ(view().base, kOlder);
  EXPECT_NE(view().reason.find("not v5"), std::string::npos) << view().reason;
  EXPECT_NE(view().reason.find("1 more step done again"), std::string::npos) << view().reason;
}

TEST_F(DecideByCost, TheNewestIsTakenWhereItsFetchIsCheaper) {
  input_.step_seconds = 3;
  EXPECT_EQ(view().base, kBase);
  input_.step_seconds = 1;
  input_.fetch_bytes_per_second = 1'000;
  EXPECT_EQ(view().base, kBase);
}

TEST_F(DecideByCost, NothingOlderThanTheSafeVersionIsTaken) {
  input_.safe = kBase;
  EXPECT_EQ(view().base, kBase);
}

TEST_F(DecideByCost, WithoutKnowingAStepsTimeTheNewestIsTaken) {
  input_.step_seconds = 0;
  EXPECT_EQ(view().base, kBase);
}

TEST_F(DecideByCost, LoadingManyBytesOfTheOwnArenaCostsTimeToo) {
  Holdings holdings(2);  // node-0's buffer of version 4 is overwritten
  holdings.add_buffer({node(0), 0}, {{kBase, {0}}});
  holdings.add_arena(node(0), {{kOlder, {0, 1}}});
  holdings.add_arena(node(1), {{kBase, {1}}});
  EXPECT_EQ(decide(input_, holdings).view.base, kOlder);
  input_.load_bytes_per_second = 50;
  EXPECT_EQ(decide(input_, holdings).view.base, kBase) << "4 s for two shards and a step of 1 s, or 4 s for one that is fetched";
}

}  // namespace
}  // namespace holdfast::daemon
