// The writer's half of Replicator: grant, write, commit, for each holder on its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "storage/replica/messages.h"
#include "storage/replica/peer_links.h"
#include "storage/replica/replicator.h"

namespace holdfast::storage {

class Pushing : public std::enable_shared_from_this<Pushing> {
 public:
  using Done = std::function<void(std::vector<HolderResult>)>;

  Pushing(const ReplicatorOptions& options, Arena& arena, PeerLinks& links, Executor& executor,
          const PeerCall& call);

  Epoch epoch() const { return epoch_; }
  // The caller has closed every link.
  void set_epoch(Epoch epoch);
  void start(Epoch epoch, uint64_t job, const StateVersion& state,
             const std::vector<HeldBlock>& blocks, const std::vector<NodeId>& holders, Done done);

 private:
  struct Source {
    uint64_t offset = 0;
    BlockHeader header;
  };
  // One call of start: waits for all its attempts.
  struct Whole {
    std::vector<HolderResult> results;
    size_t open = 0;
    Done done;
  };
  // To replicate to one holder.
  struct Attempt {
    uint64_t number = 0;
    Epoch epoch;
    NodeId holder;
    std::map<ShardId, Source> sources;
    uint64_t bytes = 0;
    std::shared_ptr<Whole> whole;
    size_t place = 0;          // in whole->results
    uint32_t writes_open = 0;  // not known to be complete
    uint64_t link = 0;
    bool ended = false;
  };
  using AttemptPtr = std::shared_ptr<Attempt>;

  Result<std::map<ShardId, Source>> sources_of(uint64_t job, const StateVersion& state,
                                               const std::vector<HeldBlock>& blocks);
  void ask_grant(const AttemptPtr& attempt);
  void granted(const AttemptPtr& attempt, const Result<std::string>& reply);
  static Status check(const Attempt& attempt, const GrantReply& grant);
  Status write(const AttemptPtr& attempt, const std::string& grant);
  void written(const AttemptPtr& attempt, const Status& status);
  void ask_commit(const AttemptPtr& attempt);
  void committed(const AttemptPtr& attempt, const Result<std::string>& reply);
  void end(const AttemptPtr& attempt, const Status& status);
  void tell_released(const Attempt& attempt, bool aborted);
  int64_t timeout_ms(const Attempt& attempt) const;

  const ReplicatorOptions options_;
  Arena& arena_;
  PeerLinks& links_;
  Executor& executor_;
  const PeerCall call_;
  Epoch epoch_;
  uint64_t newest_ = 0;
  std::map<uint64_t, AttemptPtr> open_;  // by number
};

}  // namespace holdfast::storage
