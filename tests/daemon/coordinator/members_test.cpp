// Who takes which place when there are stages, who moves, and why.
#include "daemon/coordinator/base.h"
#include "daemon/coordinator/members.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "daemon/coordinator/decide.h"
#include "daemon/coordinator/moves.h"

namespace holdfast::daemon {
namespace {

const StateVersion kBase{Version(5), Epoch{7, 1}};

WorkerId worker(uint32_t n) { return {NodeId(fmt::format("node-{:02}", n)), 0}; }
Coordinate at(uint32_t pipeline, uint32_t stage) {
  return {PipelineIndex(pipeline), StageIndex(stage)};
}

DecideInput input_of(uint32_t pipelines, uint32_t stages, const std::vector<uint32_t>& ready) {
  DecideInput input;
  input.epoch = {7, 2};
  input.job.name = JobId("a");
  input.job.pipelines = pipelines;
  input.job.stages = stages;
  input.job.micro_batches = 6;
  input.job.micro_batches_in_flight = 6;
  input.job.model.layers = stages;
  input.job.model.experts = 2;
  input.job.model.width = 64;
  input.job.model.vocabulary = 2;  // the head costs nothing: stages are alike
  input.replicas = 1;
  input.shards = shards_of_job(input.job);
  for (const uint32_t n : ready) {
    input.workers.push_back(worker(n));
    input.nodes.push_back({worker(n).node, worker(n).node.value, uint64_t{1} << 30});
  }
  return input;
}

// The fault-free view of D x S nodes: node-n at the n-th place, pipeline by pipeline.
std::vector<Member> fault_free(uint32_t pipelines, uint32_t stages) {
  std::vector<uint32_t> all;
  for (uint32_t n = 0; n < pipelines * stages; ++n) all.push_back(n);
  const DecideInput input = input_of(pipelines, stages, all);
  return choose_members(input, Holdings(static_cast<uint32_t>(input.shards.bytes.size())));
}

std::string text(const std::vector<Member>& members) {
  std::string out;
  for (const Member& m : members)
    out += fmt::format("{}{}{}", out.empty() ? "" : " ", std::stoi(m.worker.node.value.substr(5)),
                       to_string(m.coordinate));
  return out;
}

std::vector<uint32_t> shards_of(const DecideInput& input, uint32_t stage) {
  std::vector<uint32_t> shards;
  for (uint32_t shard = 0; shard < input.shards.bytes.size(); ++shard)
    if (input.shards.stage[shard] == StageIndex(stage)) shards.push_back(shard);
  return shards;
}

Holdings nothing(const DecideInput& input) {
  return Holdings(static_cast<uint32_t>(input.shards.bytes.size()));
}
// Every lane of `before` that is ready has its stage's state in its buffers, and in its arena if `kept`.
Holdings held_by(const DecideInput& input, const std::vector<Member>& before, bool kept) {
  Holdings holdings = nothing(input);
  for (const Member& m : before) {
    if (std::find(input.workers.begin(), input.workers.end(), m.worker) == input.workers.end())
      continue;
    const std::vector<HeldShards> held{{kBase, shards_of(input, m.coordinate.stage.value)}};
    holdings.add_buffer(m.worker, held);
    if (kept) holdings.add_arena(m.worker.node, held);
  }
  return holdings;
}

TEST(Members, Places) {
  struct Case {
    const char* name;
    uint32_t pipelines, stages;
    bool before;  // the fault-free view ran
    std::vector<uint32_t> ready;
    const char* places;
  };
  for (const Case& c : std::vector<Case>{
           {"one stage", 3, 1, false, {0, 1, 2}, "0(0,0) 1(1,0) 2(2,0)"},
           {"one stage, survivors keep theirs", 3, 1, true, {2, 0}, "0(0,0) 2(2,0)"},
           {"pipeline by pipeline", 2, 2, false, {0, 1, 2, 3}, "0(0,0) 2(1,0) 1(0,1) 3(1,1)"},
           {"every stage gets one first", 2, 3, false, {0, 1, 2, 3}, "0(0,0) 3(1,0) 1(0,1) 2(0,2)"},
           {"spares stay out", 1, 2, false, {0, 1, 2}, "0(0,0) 1(0,1)"},
           {"survivors keep theirs", 2, 2, true, {0, 2, 3}, "0(0,0) 2(1,0) 3(1,1)"},
           {"a newcomer takes the free place", 2, 2, true, {0, 2, 3, 9},
            "0(0,0) 2(1,0) 9(0,1) 3(1,1)"},
           {"the stage that lacks most", 2, 2, true, {0, 8}, "0(0,0) 8(0,1)"},
           {"a spare before a move", 2, 2, true, {0, 2, 9}, "0(0,0) 2(1,0) 9(0,1)"},
           {"of the fullest stage the highest", 2, 2, true, {0, 2}, "0(0,0) 2(0,1)"},
           {"from the fullest stage", 3, 3, true, {0, 1, 3, 4, 6}, "0(0,0) 3(1,0) 1(0,1) 4(1,1) 6(0,2)"},
       }) {
    DecideInput input = input_of(c.pipelines, c.stages, c.ready);
    if (c.before) input.previous = fault_free(c.pipelines, c.stages);
    EXPECT_EQ(text(choose_members(input, nothing(input))), c.places) << c.name;
  }
}

TEST(Members, WhoHasTheStagesStateAtHandIsMoved) {
  DecideInput input = input_of(2, 2, {0, 2});
  input.previous = fault_free(2, 2);
  input.safe = kBase;
  Holdings holdings = nothing(input);
  holdings.add_arena(worker(0).node, {{kBase, shards_of(input, 1)}});  // it held node-1's replicas
  const auto members = choose_members(input, holdings);
  EXPECT_EQ(text(members), "2(1,0) 0(0,1)");
  EXPECT_EQ(membership_text(input, members),
            "; gone: node-01 at (0,1), node-03 at (1,1); lost its last lane: stage 1; moves node-00 "
            "from (0,0) to (0,1); all micro-batches run on 1 of 2 lanes of stage 0, 1 of 2 lanes of "
            "stage 1");
}

TEST(Members, ABufferCountsAtItsOwnStageOnly) {
  DecideInput input = input_of(2, 2, {0, 2});
  input.previous = fault_free(2, 2);
  input.history = {{Epoch{7, 1}, StateVersion{}}};
  Holdings holdings = nothing(input);
  std::vector<uint32_t> all = shards_of(input, 0);
  for (const uint32_t shard : shards_of(input, 1)) all.push_back(shard);
  holdings.add_buffer(worker(2), {{kBase, all}});
  const std::vector<Member> apart{{worker(0), at(0, 0), {}}, {worker(2), at(0, 1), {}}};
  EXPECT_EQ(newest_base(input, holdings, apart), StateVersion{}) << "stage 0 has a lane without it";
  holdings.add_arena(worker(2).node, {{kBase, shards_of(input, 0)}});
  EXPECT_EQ(newest_base(input, holdings, apart), kBase);
}

TEST(Members, OwnersAreLanesOfTheShardsStage) {
  for (const std::vector<uint32_t>& ready :
       {std::vector<uint32_t>{0, 1, 2, 3, 4, 5}, {0, 1, 3, 5}, {2, 4, 5, 9}, {0, 1, 9}}) {
    DecideInput input = input_of(2, 3, ready);
    input.previous = fault_free(2, 3);
    const Decision decision = decide(input, nothing(input));
    std::vector<uint64_t> bytes(decision.view.members.size());
    for (uint32_t shard = 0; shard < input.shards.bytes.size(); ++shard) {
      const uint32_t lane = decision.view.owner_lane[shard];
      EXPECT_EQ(decision.view.members[lane].coordinate.stage, input.shards.stage[shard]) << shard;
      bytes[lane] += input.shards.bytes[shard];
    }
    for (const uint64_t owned : bytes) EXPECT_GT(owned, 0U) << "even within the stage";
  }
}

TEST(Members, HoldersAreOfTheSameStageIfTheyCanBe) {
  const DecideInput input = input_of(2, 2, {0, 1, 2, 3});
  for (const Member& m : decide(input, nothing(input)).view.members) {
    ASSERT_EQ(m.holders.size(), 1U);
    const uint32_t self = static_cast<uint32_t>(m.worker.node.value.back() - '0');
    EXPECT_EQ(m.holders[0], worker((self + 2) % 4).node) << m.worker.node.value;
  }
}

// ---- moves that pay -------------------------------------------------------------------------------

class Moves : public testing::Test {
 protected:
  // D = 3, S = 4; node 4 d + s is at (d, s). Without the two of stage 2.
  Moves() : before_(fault_free(3, 4)), input_(input_of(3, 4, {0, 1, 3, 4, 5, 6, 7, 8, 9, 11})) {
    input_.previous = before_;
    input_.safe = kBase;
    input_.history = {{Epoch{7, 1}, StateVersion{}}};
  }
  Decision decided(bool kept) { return decide(input_, held_by(input_, before_, kept)); }
  std::vector<Member> before_;
  DecideInput input_;
};

TEST_F(Moves, AWorkerTakesADeadLaneOverWhereFailuresPileUp) {
  const Decision decision = decided(true);
  ASSERT_EQ(decision.moved.size(), 1U);
  EXPECT_EQ(decision.moved[0].to, at(0, 2));
  EXPECT_NE(decision.moved[0].from.stage, StageIndex(2));
  EXPECT_EQ(decision.view.base, kBase);
  const auto lanes = lanes_by_stage(decision.view.members, 4);
  EXPECT_EQ(lanes[2].size(), 2U);
  // What the plans of these lanes take, in F of a layer.
  const std::string& why = decision.view.reason;
  const size_t from = why.find("a step takes "), to = why.find(" -> ", from);
  ASSERT_NE(to, std::string::npos) << why;
  EXPECT_NEAR(std::stod(why.substr(from + 13)), 58, 4) << why;
  EXPECT_NEAR(std::stod(why.substr(to + 4)), 31, 4) << why;
}

TEST_F(Moves, OneFailureAStageIsNoReason) {
  input_ = input_of(3, 4, {0, 1, 2, 4, 6, 7, 8, 9, 10, 11});  // (0,3), (1,1)
  input_.previous = before_;
  EXPECT_TRUE(decided(true).moved.empty());
}

TEST_F(Moves, TheyMustBeWorthTheirBytes) {
  for (uint64_t& bytes : input_.shards.bytes) bytes = uint64_t{1} << 40;
  input_.step_seconds = 0.01;
  EXPECT_TRUE(decided(true).moved.empty());
  input_.step_seconds = 10'000;
  EXPECT_FALSE(decided(true).moved.empty());
}

TEST_F(Moves, NobodyIsMovedThatHasTheOnlyCopy) {
  // Every lane of the other stages owns a part that no other has.
  Holdings holdings = nothing(input_);
  const Decision whole = [&] {
    DecideInput all = input_of(3, 4, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
    return decide(all, nothing(all));
  }();
  for (uint32_t lane = 0; lane < whole.view.members.size(); ++lane) {
    const Member& m = whole.view.members[lane];
    std::vector<uint32_t> owned;
    for (const SourcedShard& s : whole.owned[lane]) owned.push_back(s.shard);
    holdings.add_buffer(m.worker, {{kBase, owned}});
    if (m.coordinate.stage == StageIndex(2))  // replicas of the dead
      holdings.add_arena(worker(6).node, {{kBase, owned}});
  }
  const Decision decision = decide(input_, holdings);
  EXPECT_EQ(decision.view.base, kBase);
  EXPECT_TRUE(decision.moved.empty()) << decision.view.reason;
  EXPECT_NE(decision.moves_later, "") << "once captures are in arenas";
}

TEST(Members, ANewcomerGoesWhereItIsOfMostUse) {
  DecideInput input = input_of(2, 2, {0, 2, 9});
  input.job.model.vocabulary = 4096;  // the head: stage 1 is the dearer one
  input.shards = shards_of_job(input.job);
  input.previous = {{worker(0), at(0, 0), {}}, {worker(2), at(0, 1), {}}};
  input.history = {{Epoch{7, 1}, StateVersion{}}};
  Holdings holdings = held_by(input, input.previous, true);
  holdings.add_arena(worker(0).node, {{kBase, shards_of(input, 1)}});  // a holder
  const Decision decision = decide(input, holdings);
  EXPECT_EQ(text(decision.view.members), "0(0,0) 2(0,1) 9(1,1)");
  EXPECT_TRUE(decision.moved.empty()) << "who sits somewhere stays: " << decision.view.reason;
}

TEST_F(Moves, WithoutSnapshotsNothingIsGivenUp) {
  input_.job.snapshot.policy = "none";
  EXPECT_TRUE(decided(true).moved.empty());
}

TEST_F(Moves, ReturningWorkersFillWhatIsFree) {
  const Decision moved = decided(true);
  DecideInput back = input_of(3, 4, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  back.previous = moved.view.members;
  const Decision decision = decide(back, nothing(back));
  EXPECT_TRUE(decision.moved.empty()) << decision.view.reason;
  EXPECT_EQ(decision.view.members.size(), 12U);
  for (const auto& lanes : lanes_by_stage(decision.view.members, 4))
    EXPECT_EQ(lanes, (std::vector<uint32_t>{0, 1, 2}));
}

}  // namespace
}  // namespace holdfast::daemon
