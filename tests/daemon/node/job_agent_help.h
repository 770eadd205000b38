// A JobAgent with its ports in the test's hands.
#pragma once

#include "daemon/node/job_agent.h"
#include "tests/daemon/node/node_test_help.h"

namespace holdfast::daemon {

using train::WorkerPhase;

inline constexpr Epoch kOne{1, 1};
inline constexpr Epoch kTwo{1, 2};
inline StateVersion at(uint64_t version, Epoch made = kOne) { return {Version(version), made}; }

class JobAgentTest : public NodeTest {
 protected:
  JobAgentTest() { start({}); }

  void start(const AgentMemory& memory) {
    agent_ =
        std::make_unique<JobAgent>(JobAgentOptions{self_, 1, 1'500, "/arena", "127.0.0.1"},
                                   JobAgent::Ports{*arena_, workers_, replicas_, loop_, report(),
                                                   [this](const AgentMemory& m) { memory_ = m; }},
                                   memory);
  }
  train::Hello hello(Epoch epoch, WorkerPhase phase, bool fresh = false) const {
    train::Hello h;
    h.epoch = epoch;
    h.phase = phase;
    if (!fresh) h.job_key = job_.key;
    return h;
  }
  CommandRestore restore_of(Epoch epoch, StateVersion base, std::vector<SourcedShard> owned) const {
    CommandRestore c;
    c.view.epoch = epoch;
    c.view.job = job_.config.name;
    c.view.base = base;
    c.view.members = {{{self_, 0}, Coordinate{}, {NodeId("node-1")}}};
    c.view.owner_lane.assign(job_.layout.shard_count(), 0);
    c.owned = std::move(owned);
    return c;
  }
  // A worker that runs in epoch one, from version 0.
  void run() {
    agent_->on_command(CommandQuiesce{kOne, job_.config, job_.submitted_in, at(0)});
    agent_->on_worker_up(0, hello({}, WorkerPhase::kIdle, true));
    agent_->on_worker_message(0, train::Quiesced{kOne, {}});
    agent_->on_command(
        restore_of(kOne, at(0), {{0, ShardSource::kInitial, {}}, {1, ShardSource::kInitial, {}}}));
    agent_->on_worker_message(0, train::Restored{kOne, "YWJj"});
    agent_->on_command(CommandGo{kOne, {"YWJj"}});
  }

  std::unique_ptr<JobAgent> agent_;
  AgentMemory memory_;
};

}  // namespace holdfast::daemon
