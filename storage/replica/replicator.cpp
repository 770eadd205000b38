#include "storage/replica/replicator.h"

#include <utility>

#include "storage/replica/fetching.h"
#include "storage/replica/peer_links.h"
#include "storage/replica/pushing.h"

namespace holdfast::storage {

class Replicator::Impl {
 public:
  Impl(const ReplicatorOptions& options, Arena& arena, Fabric& fabric, Executor& executor,
       const PeerCall& call)
      : links_(fabric, executor),
        pushing_(std::make_shared<Pushing>(options, arena, links_, executor, call)),
        fetching_(std::make_shared<Fetching>(options, arena, links_, executor, call)) {}

  PeerLinks links_;
  std::shared_ptr<Pushing> pushing_;
  std::shared_ptr<Fetching> fetching_;
};

Replicator::Replicator(ReplicatorOptions options, Arena& arena, Fabric& fabric, Executor& executor,
                       PeerCall call)
    : impl_(std::make_unique<Impl>(options, arena, fabric, executor, call)) {}
Replicator::~Replicator() = default;

void Replicator::set_epoch(Epoch epoch) {
  if (epoch <= impl_->pushing_->epoch()) return;
  impl_->links_.close_all();
  impl_->pushing_->set_epoch(epoch);
  impl_->fetching_->set_epoch(epoch);
}

void Replicator::replicate(Epoch epoch, uint64_t job, const StateVersion& state,
                           const std::vector<HeldBlock>& blocks, const std::vector<NodeId>& holders,
                           std::function<void(std::vector<HolderResult>)> done) {
  impl_->pushing_->start(epoch, job, state, blocks, holders, std::move(done));
}

void Replicator::fetch(Epoch epoch, uint64_t job, const StateVersion& state,
                       const std::vector<WantedShard>& shards, const NodeId& from,
                       std::function<void(FetchResult)> done) {
  impl_->fetching_->start(epoch, job, state, shards, from, std::move(done));
}

}  // namespace holdfast::storage
