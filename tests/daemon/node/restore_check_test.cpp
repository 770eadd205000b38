// A restore command that names what is not there is refused before anything is indexed by it.
#include "daemon/node/restore_check.h"

#include "tests/daemon/node/node_test_help.h"

namespace holdfast::daemon {
namespace {

constexpr Epoch kOne{1, 1};

class RestoreCheck : public NodeTest {
 protected:
  CommandRestore good() const {
    CommandRestore c;
    c.view.epoch = kOne;
    c.view.members = {{{self_, 0}, {}, {}}};
    c.view.owner_lane.assign(job_.layout.shard_count(), 0);
    c.owned = {{0, ShardSource::kInitial, {}}, {1, ShardSource::kInitial, {}}};
    return c;
  }
};

TEST_F(RestoreCheck, WhatIsOutOfRangeIsABadMessage) {
  const uint32_t shards = job_.layout.shard_count();
  EXPECT_TRUE(check_restore(good(), shards));
  const std::vector<std::function<void(CommandRestore&)>> changes = {
      [](CommandRestore& c) { c.lane = 1; },
      [](CommandRestore& c) { c.view.members.clear(); },
      [](CommandRestore& c) { c.view.owner_lane.pop_back(); },
      [](CommandRestore& c) { c.view.owner_lane.push_back(0); },
      [](CommandRestore& c) { c.view.owner_lane[0] = 1; },
      [&](CommandRestore& c) { c.owned[1].shard = shards; },
      [](CommandRestore& c) { c.owned[1].shard = c.owned[0].shard; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    CommandRestore command = good();
    changes[i](command);
    const Status status = check_restore(command, shards);
    ASSERT_FALSE(status) << "change " << i;
    EXPECT_EQ(status.error().code, ErrorCode::kBadMessage) << "change " << i;
  }
}

// Nothing of it may be remembered: the next daemon process would stumble over it.
TEST_F(RestoreCheck, AnAgentReportsItAndRemembersNothing) {
  AgentMemory memory;
  JobAgent agent({self_, 1, 1'500, "/arena", "127.0.0.1"},
                 {*arena_, workers_, replicas_, loop_, report(),
                  [&](const AgentMemory& m) { memory = m; }},
                 {});
  agent.on_command(CommandQuiesce{kOne, job_.config, job_.submitted_in, {}});
  CommandRestore bad = good();
  bad.lane = 1;
  agent.on_command(bad);
  EXPECT_EQ(last<WorkerRestoreFailed>().error.code, ErrorCode::kBadMessage);
  EXPECT_EQ(workers_.count<train::Restore>(), 0u);
  EXPECT_TRUE(memory.views.empty());
  agent.on_command(good());
  EXPECT_EQ(workers_.count<train::Restore>(), 1u);
  EXPECT_EQ(memory.views.size(), 1u);
}

}  // namespace
}  // namespace holdfast::daemon
