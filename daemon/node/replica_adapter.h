// storage/replica as the job agent's ReplicaPort, and the daemon's loop as what replication runs
// on.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "daemon/node/ports.h"
#include "storage/arena/arena.h"
#include "storage/replica/executor.h"
#include "storage/replica/replica_server.h"
#include "storage/replica/replicator.h"

namespace holdfast::daemon {

class LoopExecutor final : public storage::Executor {
 public:
  // `post` runs an action on the event loop, from any thread.
  LoopExecutor(LoopPort& loop, std::function<void(std::function<void()>)> post)
      : loop_(loop), post_(std::move(post)) {}

  void post(std::function<void()> action) override { post_(std::move(action)); }
  void aside(std::function<void()> work, std::function<void()> done) override {
    loop_.aside(std::move(work), std::move(done));
  }
  size_t helpers() const override { return loop_.helpers(); }
  void after_ms(int64_t ms, std::function<void()> action) override {
    loop_.after_ms(ms, std::move(action));
  }

 private:
  LoopPort& loop_;
  const std::function<void(std::function<void()>)> post_;
};

class ReplicaAdapter final : public ReplicaPort {
 public:
  // `learn` is told where nodes are, before anything is asked of them.
  ReplicaAdapter(storage::Arena& arena, storage::Replicator& replicator,
                 storage::ReplicaServer& server,
                 std::function<void(const std::vector<NodeAddress>&)> learn)
      : arena_(arena), replicator_(replicator), server_(server), learn_(std::move(learn)) {}

  void set_epoch(Epoch epoch) override;
  void open_view(const View& view, const std::vector<NodeAddress>& nodes) override;
  void replicate(Epoch epoch, uint64_t job, const StateVersion& state,
                 const std::vector<train::ShardBlock>& blocks, const std::vector<NodeId>& holders,
                 std::function<void(std::vector<Replicated>)> done) override;
  void fetch(Epoch epoch, const NodeJob& job, const StateVersion& state,
             const std::vector<uint32_t>& shards, const NodeId& from,
             std::function<void(Fetched)> done) override;

 private:
  storage::Arena& arena_;
  storage::Replicator& replicator_;
  storage::ReplicaServer& server_;
  const std::function<void(const std::vector<NodeAddress>&)> learn_;
};

}  // namespace holdfast::daemon
