// What a lane takes at its start, and that a job without that room is refused.
#include "train/step/lane_room.h"

#include <gtest/gtest.h>

#include "tests/train/step/lanes_harness.h"
#include "train/optimizer/hosted_layout.h"
#include "train/schedule/job_plan.h"

namespace holdfast::train {
namespace {

constexpr uint64_t up(uint64_t n) { return (n + 63) / 64 * 64; }

struct Row {
  uint32_t pipelines, tolerate, lanes;
};

// The hosted groups of the fullest lane, and the most that one owns when shards are spread evenly.
TEST(LaneRoom, IsEnoughForEveryLaneWhenAsManyAreLostAsTheJobTolerates) {
  for (const Row& row : {Row{1, 0, 1}, Row{1, 1, 1}, Row{2, 0, 2}, Row{2, 1, 1}, Row{4, 1, 3},
                         Row{4, 3, 1}, Row{8, 2, 6}, Row{3, 9, 1}}) {
    conf::JobConfig job = small_job(false);
    job.pipelines = row.pipelines;
    job.tolerate = row.tolerate;
    const ParameterLayout layout(job.model, job.slices());
    const LaneRoom room = lane_room(layout, job);
    SCOPED_TRACE(std::to_string(row.pipelines) + " lanes, " + std::to_string(row.tolerate));
    EXPECT_EQ(room.lanes, row.lanes);

    std::vector<uint64_t> owned(row.lanes);
    uint64_t all = 0;
    for (uint32_t flat = 0; flat < layout.shard_count(); ++flat) {
      const uint64_t n = up(layout.range(ShardId::unflat(flat, layout.slices())).size());
      *std::min_element(owned.begin(), owned.end()) += n;  // the least loaded lane takes it
      all += n;
    }
    const uint64_t most = *std::max_element(owned.begin(), owned.end());
    EXPECT_GE(room.shard_elements, most);
    EXPECT_LE(room.shard_elements, all);
    EXPECT_TRUE(row.lanes > 1 || room.shard_elements == all);
    EXPECT_EQ(room.shard_bytes(), room.shard_elements * 24);
    EXPECT_EQ(room.summed_elements == 0, row.pipelines == 1) << "nothing is summed by one alone";

    const uint32_t slots = slots_per_lane(job.slots(), job.model.experts, row.lanes);
    const StageMap map{&layout,
                       place_static(job.model.layers, job.model.experts, row.lanes, slots), {}, 0,
                       row.lanes, whole_model(job.model)};
    EXPECT_GE(room.hosted_elements, HostedLayout(map).elements());
  }
}

// A lane hosts groups of its own stage only; what is taken is enough for whichever stage it comes to.
TEST(LaneRoom, IsThatOfTheLargestStage) {
  conf::JobConfig job = small_job(false);
  job.model.layers = 5;
  job.tolerate = 0;
  const ParameterLayout layout(job.model, job.slices());
  const LaneRoom whole = lane_room(layout, job);
  job.stages = 3;
  const LaneRoom room = lane_room(layout, job);
  EXPECT_EQ(room.lanes, 4U);
  EXPECT_LT(room.shard_elements, whole.shard_elements / 2);
  EXPECT_LT(room.hosted_elements, whole.hosted_elements / 2);
  size_t hosted = 0;
  for (const StageLayers& stage : split_layers(job.model, 3)) {
    const StageMap map{&layout, place_static(5, 4, 4, 1), {}, 0, 4, stage};
    const HostedLayout here(map);
    EXPECT_LE(here.elements(), room.hosted_elements);
    hosted += here.elements();
    size_t shards = 0;
    for (uint32_t flat = 0; flat < layout.shard_count(); ++flat)
      if (map.has(flat)) shards += up(layout.range(map.shard(flat)).size());
    EXPECT_LE(shards / 4, room.shard_elements);
    for (const GroupSpec& group : layout.groups())
      if (here.hosts(group.index)) {
        EXPECT_TRUE(stage.has(group)) << group.name;
      }
  }
  EXPECT_EQ(hosted, whole.hosted_elements) << "all stages together";
}

TEST(LaneRoom, AJobThatSurvivorsCouldNotHoldIsRefusedWithTheBytes) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "sanitizers end a program that asks for too much memory";
#endif
  conf::JobConfig job = small_job(false);
  job.pipelines = 2;
  job.tolerate = 1;
  job.model.experts = 1u << 14;
  job.model.width = 1u << 15;
  job.model.expert_width = 1u << 15;  // more than an address space has
  LaneProcess lane(job);
  const Status reserved = lane.trainer.reserve();
  ASSERT_FALSE(reserved);
  EXPECT_EQ(reserved.error().code, ErrorCode::kDeviceMemory);
  const LaneRoom room = lane_room(ParameterLayout(job.model, job.slices()), job);
  EXPECT_NE(reserved.error().message.find(std::to_string(room.shard_bytes()) + " bytes for shards"),
            std::string::npos)
      << reserved.error().message;
  EXPECT_NE(reserved.error().message.find("1 of 2 lanes"), std::string::npos)
      << reserved.error().message;
}

// Training and adoption with the room reserved: the same losses, and no shard is anywhere else.
TEST(LaneRoom, ASurvivorTrainsOnInWhatItHasReserved) {
  const conf::JobConfig job = small_job(true);
  const auto run = [&](bool reserve) {
    Group group(job, 2);
    if (reserve)
      for (auto& lane : group.processes) CHECK(lane->trainer.reserve().has_value());
    const ViewPlan before = plan_view(job, {0, 1});
    for (uint32_t l = 0; l < 2; ++l) open_lane(*group.processes[l], before, l);
    train(group.all(), 0, 3);
    std::vector<Payload> state;
    for (LaneProcess* lane : group.all())
      for (const uint32_t shard : lane->trainer.owned()) {
        if (state.size() <= shard) state.resize(shard + 1);
        state[shard] = read_state(lane->trainer, shard, Version(3));
      }
    const ViewPlan after = plan_view(job, {1}, {Version(3), {1, 1}}, {1, 2});
    open_lane(*group.processes[1], after, 0, state);
    return train({group.processes[1].get()}, 3, 3);
  };
  EXPECT_EQ(run(true), run(false));
}

}  // namespace
}  // namespace holdfast::train
