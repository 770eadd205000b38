// A full disk does not end a daemon that trains.
#include <fmt/format.h>

#include "daemon/node/memory_store.h"
#include "tests/daemon/node/node_test_help.h"
#include "tests/storage/catalog/full_disk.h"

namespace holdfast::daemon {
namespace {

class MemoryKeeperTest : public NodeTest {
 protected:
  AgentMemory of_epoch(uint32_t number) const {
    return {{1, number}, job_.config, job_.submitted_in, {}, {}};
  }
  storage::FullDisk disk_;
  std::vector<std::string> notes_;
  MemoryKeeper keeper_{disk_, loop_, [this](const std::string& text) { notes_.push_back(text); }};
};

TEST_F(MemoryKeeperTest, WhatAFullDiskRefusesIsStoredLater) {
  keeper_.save(of_epoch(1));
  EXPECT_FALSE(keeper_.dirty());
  disk_.full = true;
  keeper_.save(of_epoch(2));
  keeper_.save(of_epoch(3));
  EXPECT_TRUE(keeper_.dirty());
  ASSERT_EQ(notes_.size(), 1u) << "told once";
  EXPECT_NE(notes_[0].find("no space left"), std::string::npos);
  EXPECT_EQ(load_memory(disk_)->epoch, (Epoch{1, 1}));
  EXPECT_EQ(loop_.timers.size(), 1u) << "one retry at a time";
  loop_.fire();
  EXPECT_EQ(loop_.timers.size(), 1u);
  disk_.full = false;
  loop_.fire();
  EXPECT_EQ(load_memory(disk_)->epoch, (Epoch{1, 3}));
  EXPECT_FALSE(keeper_.dirty());
  EXPECT_EQ(notes_.size(), 2u);
  EXPECT_TRUE(loop_.timers.empty());
}

TEST_F(MemoryKeeperTest, ALaterChangeThatIsStoredEndsTheRetries) {
  disk_.full = true;
  keeper_.save(of_epoch(2));
  disk_.full = false;
  keeper_.save(of_epoch(3));
  const int tries = disk_.tries;
  loop_.fire();
  EXPECT_EQ(disk_.tries, tries);
  EXPECT_EQ(load_memory(disk_)->epoch, (Epoch{1, 3}));
}

TEST_F(MemoryKeeperTest, ARecordThatNamesALaneOrShardThatIsNotThereIsRefused) {
  AgentMemory memory = of_epoch(1);
  CommandRestore restore;
  restore.view.epoch = {1, 1};
  restore.view.members = {{{self_, 0}, Coordinate{}, {}}};
  restore.view.owner_lane.assign(job_.layout.shard_count(), 0);
  memory.views = {restore};
  ASSERT_TRUE(save_memory(disk_, memory));
  EXPECT_TRUE(load_memory(disk_));
  memory.views[0].lane = 1;
  ASSERT_TRUE(save_memory(disk_, memory));
  const auto refused = load_memory(disk_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBadMessage);
  JobAgent agent({self_, 1, 1'500, "/arena", "127.0.0.1"},
                 {*arena_, workers_, replicas_, loop_, report(), [](const AgentMemory&) {}}, memory);
  EXPECT_EQ(replicas_.opened, Epoch{}) << "and does no harm";
}

// The agent goes through a whole view change meanwhile.
TEST_F(MemoryKeeperTest, AViewChangesWithAFullDisk) {
  disk_.full = true;
  JobAgent agent({self_, 1, 1'500, "/arena", "127.0.0.1"},
                 {*arena_, workers_, replicas_, loop_, report(),
                  [this](const AgentMemory& memory) { keeper_.save(memory); }},
                 {});
  agent.on_command(CommandQuiesce{{1, 1}, job_.config, job_.submitted_in, {}});
  EXPECT_EQ(last<NodeQuiesced>().epoch, (Epoch{1, 1}));
  CommandRestore restore;
  restore.view.epoch = {1, 1};
  restore.view.members = {{{self_, 0}, Coordinate{}, {}}};
  restore.view.owner_lane.assign(job_.layout.shard_count(), 0);
  restore.owned = {{0, ShardSource::kInitial, {}}};
  agent.on_command(restore);
  EXPECT_EQ(workers_.count<train::Restore>(), 1u);
  EXPECT_EQ(notes_.size(), 1u);
}

}  // namespace
}  // namespace holdfast::daemon
