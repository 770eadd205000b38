#include "storage/replica/pushing.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/fault_point.h"

namespace holdfast::storage {

Pushing::Pushing(const ReplicatorOptions& options, Arena& arena, PeerLinks& links,
                 Executor& executor, const PeerCall& call)
    : options_(options), arena_(arena), links_(links), executor_(executor), call_(call) {}

int64_t Pushing::timeout_ms(const Attempt& attempt) const {
  return options_.call_timeout_ms + static_cast<int64_t>(attempt.bytes >> 26) * 1'000;
}

void Pushing::set_epoch(Epoch epoch) {
  epoch_ = epoch;
  const std::map<uint64_t, AttemptPtr> over = open_;
  for (const auto& [number, attempt] : over)
    end(attempt,
        fail(ErrorCode::kEpochOld,
             fmt::format("replication to {} in epoch {}: it is {} now", attempt->holder.value,
                         to_string(attempt->epoch), to_string(epoch))));
}

Result<std::map<ShardId, Pushing::Source>> Pushing::sources_of(
    uint64_t job, const StateVersion& state, const std::vector<HeldBlock>& blocks) {
  std::map<ShardId, Source> sources;
  for (const HeldBlock& held : blocks) {
    ASSIGN_OR_RETURN(const BlockInfo info, arena_.info(held.block));
    if (!info.header || info.header->job != job || info.header->state != state ||
        info.header->shard != held.shard)
      return fail(ErrorCode::kBlockMissing,
                  fmt::format("block {} of {} does not hold {} at {}", held.block.value,
                              options_.self.value, to_string(held.shard), to_string(state)));
    sources[held.shard] = {info.offset, *info.header};
  }
  return sources;
}

void Pushing::start(Epoch epoch, uint64_t job, const StateVersion& state,
                    const std::vector<HeldBlock>& blocks, const std::vector<NodeId>& holders,
                    Done done) {
  auto whole = std::make_shared<Whole>();
  auto sources = sources_of(job, state, blocks);
  if (epoch != epoch_)
    sources = fail(ErrorCode::kEpochOld, fmt::format("replication in epoch {}: it is {} now",
                                                     to_string(epoch), to_string(epoch_)));
  for (const NodeId& holder : holders)
    whole->results.push_back({holder, sources ? Status() : fail(sources.error())});
  if (!sources || holders.empty()) {
    executor_.post([whole, done = std::move(done)] { done(std::move(whole->results)); });
    return;
  }
  whole->open = holders.size();
  whole->done = std::move(done);
  std::vector<AttemptPtr> attempts;
  for (size_t i = 0; i < holders.size(); ++i) {
    auto attempt = std::make_shared<Attempt>();
    attempt->number = ++newest_;
    attempt->epoch = epoch;
    attempt->holder = holders[i];
    attempt->sources = *sources;
    for (const auto& [shard, source] : *sources) attempt->bytes += source.header.length;
    attempt->whole = whole;
    attempt->place = i;
    open_[attempt->number] = attempt;
    attempts.push_back(std::move(attempt));
  }
  for (const AttemptPtr& attempt : attempts) ask_grant(attempt);
}

void Pushing::ask_grant(const AttemptPtr& attempt) {
  GrantRequest request;
  request.ticket = {options_.self, options_.session, attempt->number};
  request.epoch = attempt->epoch;
  for (const auto& [shard, source] : attempt->sources) {
    request.job = source.header.job;
    request.state = source.header.state;
    request.shards.push_back({shard, source.header.length, source.header.checksum});
  }
  for (const auto& [number, other] : open_)
    if (other->holder == attempt->holder) request.open.push_back(number);
  call_(attempt->holder, kGrantTarget, to_json_text(request), timeout_ms(*attempt),
        [weak = weak_from_this(), attempt](const Result<std::string>& reply) {
          if (const auto self = weak.lock()) self->granted(attempt, reply);
        });
}

void Pushing::granted(const AttemptPtr& attempt, const Result<std::string>& reply) {
  if (attempt->ended) {  // too late: nothing was written
    tell_released(*attempt, false);
    return;
  }
  Status status = reply ? write(attempt, *reply) : fail(reply.error());
  if (!status) {
    end(attempt, status);
  } else if (attempt->writes_open == 0) {
    ask_commit(attempt);
  }
}

// Each shard is granted or held, once.
Status Pushing::check(const Attempt& attempt, const GrantReply& grant) {
  std::vector<ShardId> named = grant.have;
  for (const GrantedBlock& block : grant.blocks) named.push_back(block.shard);
  std::set<ShardId> settled;
  for (const ShardId shard : named) {
    const bool ours = attempt.sources.contains(shard);
    if (!ours || !settled.insert(shard).second)
      return fail(ErrorCode::kBadMessage,
                  fmt::format("{} granted {}, which was {}", attempt.holder.value, to_string(shard),
                              ours ? "granted already" : "not asked for"));
  }
  if (settled.size() != attempt.sources.size())
    return fail(ErrorCode::kBadMessage,
                fmt::format("{} granted {} of {} shards", attempt.holder.value, settled.size(),
                            attempt.sources.size()));
  return {};
}

Status Pushing::write(const AttemptPtr& attempt, const std::string& text) {
  ASSIGN_OR_RETURN(const auto grant,
                   from_json_text<GrantReply>(text, "grant of " + attempt->holder.value));
  if (fault_point_fails("replica.write"))
    return fail(ErrorCode::kFabricLost, "fault point replica.write");
  RETURN_IF_ERROR(check(*attempt, grant));
  attempt->writes_open = static_cast<uint32_t>(grant.blocks.size());
  for (const GrantedBlock& block : grant.blocks) {
    const Source& source = attempt->sources.at(block.shard);
    attempt->link =
        links_.start(attempt->holder, grant.fabric_address,
                     {Transfer::Kind::kWrite, source.offset, block.offset, source.header.length},
                     [weak = weak_from_this(), attempt](const Status& status) {
                       if (const auto self = weak.lock()) self->written(attempt, status);
                     });
  }
  if (attempt->writes_open == 0) return {};
  executor_.after_ms(write_limit_ms(attempt->bytes), [weak = weak_from_this(), attempt] {
    const auto self = weak.lock();
    if (self && !attempt->ended && attempt->writes_open > 0)
      self->end(attempt,
                fail(ErrorCode::kFabricTimeout,
                     fmt::format("{} bytes were not written to {} within {} ms", attempt->bytes,
                                 attempt->holder.value, write_limit_ms(attempt->bytes))));
  });
  return {};
}

void Pushing::written(const AttemptPtr& attempt, const Status& status) {
  if (attempt->ended) return;
  if (!status) {
    end(attempt, status);
  } else if (--attempt->writes_open == 0) {
    ask_commit(attempt);
  }
}

void Pushing::ask_commit(const AttemptPtr& attempt) {
  const CommitRequest request{{options_.self, options_.session, attempt->number}};
  call_(attempt->holder, kCommitTarget, to_json_text(request), timeout_ms(*attempt),
        [weak = weak_from_this(), attempt](const Result<std::string>& reply) {
          const auto self = weak.lock();
          if (self && !attempt->ended) self->committed(attempt, reply);
        });
}

void Pushing::committed(const AttemptPtr& attempt, const Result<std::string>& reply) {
  if (!reply) {
    end(attempt, fail(reply.error()));
    return;
  }
  const auto commit = from_json_text<CommitReply>(*reply, "commit of " + attempt->holder.value);
  if (!commit) {
    end(attempt, fail(commit.error()));
  } else if (!commit->bad.empty()) {
    end(attempt, fail(ErrorCode::kReplicaRefused,
                      fmt::format("{} shards arrived at {} with another checksum, {} first",
                                  commit->bad.size(), attempt->holder.value,
                                  to_string(commit->bad.front()))));
  } else {
    end(attempt, {});
  }
}

void Pushing::end(const AttemptPtr& attempt, const Status& status) {
  attempt->ended = true;
  open_.erase(attempt->number);
  if (!status) {
    const bool aborted = attempt->writes_open > 0;
    if (aborted) links_.close(attempt->holder, attempt->link);
    tell_released(*attempt, aborted);
  }
  const auto whole = attempt->whole;
  whole->results[attempt->place].status = status;
  if (--whole->open == 0) executor_.post([whole] { whole->done(std::move(whole->results)); });
}

// If this is lost the holder learns it from our next request.
void Pushing::tell_released(const Attempt& attempt, bool aborted) {
  const ReleaseRequest request{{options_.self, options_.session, attempt.number}, aborted};
  call_(attempt.holder, kReleaseTarget, to_json_text(request), options_.call_timeout_ms,
        [](const Result<std::string>&) {});
}

}  // namespace holdfast::storage
