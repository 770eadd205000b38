#include "storage/replica/replica_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/checksum.h"
#include "base/fault_point.h"
#include "storage/replica/messages.h"
#include "storage/replica/spread_aside.h"

namespace holdfast::storage {
namespace {

struct GrantOfShard {
  BlockInfo block;
  BlockHeader header;  // what it will say once it is published
};

struct Attempt {
  Epoch epoch;
  std::vector<GrantOfShard> blocks;
  bool verifying = false;  // its commit is being checked: the blocks are in use
};

// The newest that was heard of a writer.
struct WriterLife {
  uint64_t session = 0;
  Epoch epoch;
  auto operator<=>(const WriterLife&) const = default;
};

bool bytes_match(ArenaMapping& arena, const GrantOfShard& granted) {
  const auto payload = arena.payload(granted.block.index);
  return payload && granted.header.length <= payload->size() &&
         checksum64(payload->first(granted.header.length)) == granted.header.checksum;
}

}  // namespace

class ReplicaServer::Impl : public std::enable_shared_from_this<ReplicaServer::Impl> {
 public:
  Impl(ReplicaServerOptions options, Arena& arena, Executor& executor)
      : options_(std::move(options)), arena_(arena), executor_(executor) {}

  void set_epoch(Epoch epoch) { epoch_ = std::max(epoch_, epoch); }
  void view_opened(Epoch epoch, const std::set<NodeId>& members);

  void grant(const GrantRequest& request, Reply reply);
  void commit(const CommitRequest& request, Reply reply);
  void release(const ReleaseRequest& request, Reply reply);
  void locate(const LocateRequest& request, Reply reply);
  uint32_t granted_blocks() const;

 private:
  // Published blocks of a state that were asked for, verified aside.
  struct Found {
    std::vector<BlockInfo> good;
    std::vector<BlockInfo> bad;
  };
  void find_verified(uint64_t job, const StateVersion& state, std::set<ShardId> shards,
                     std::function<void(Found)> done);

  Status refuse_old(Epoch epoch, const std::string& what) const;
  Status refuse_writer(const GrantRequest& request);
  Result<GrantReply> allocate(const GrantRequest& request, const Found& found);
  Result<CommitReply> publish(const Ticket& ticket, const std::vector<char>& good);

  void free_now(const std::vector<GrantOfShard>& blocks);
  void free_later(std::vector<GrantOfShard> blocks, int64_t after_ms);
  template <class Condition>
  void retire_if(const NodeId& writer, const Condition& condition);

  const ReplicaServerOptions options_;
  Arena& arena_;
  Executor& executor_;
  Epoch epoch_;
  std::map<Ticket, Attempt> attempts_;
  std::map<NodeId, WriterLife> writers_;
  uint32_t quarantined_ = 0;
};

// ---- giving blocks back -------------------------------------------------------------------------

void ReplicaServer::Impl::free_now(const std::vector<GrantOfShard>& blocks) {
  for (const GrantOfShard& b : blocks) {
    const auto info = arena_.info(b.block.index);
    if (info && !info->header) (void)arena_.free(b.block);  // refused if it is granted anew
  }
}

void ReplicaServer::Impl::free_later(std::vector<GrantOfShard> blocks, int64_t after_ms) {
  if (blocks.empty()) return;
  quarantined_ += static_cast<uint32_t>(blocks.size());
  executor_.after_ms(after_ms, [weak = weak_from_this(), blocks = std::move(blocks)] {
    const auto self = weak.lock();
    if (!self) return;
    self->quarantined_ -= static_cast<uint32_t>(blocks.size());
    self->free_now(blocks);
  });
}

// An attempt whose bytes are being checked is left alone: its writer has finished writing, and the
// end of the check settles it.
template <class Condition>
void ReplicaServer::Impl::retire_if(const NodeId& writer, const Condition& condition) {
  for (auto it = attempts_.begin(); it != attempts_.end();) {
    if (it->first.writer == writer && !it->second.verifying && condition(it->first, it->second)) {
      free_later(std::move(it->second.blocks), options_.quarantine_ms);
      it = attempts_.erase(it);
    } else {
      ++it;
    }
  }
}

void ReplicaServer::Impl::view_opened(Epoch epoch, const std::set<NodeId>& members) {
  for (auto it = attempts_.begin(); it != attempts_.end();) {
    Attempt& attempt = it->second;
    if (attempt.epoch >= epoch || attempt.verifying) {
      ++it;
      continue;
    }
    int64_t after_ms = options_.quarantine_ms;
    if (!members.contains(it->first.writer)) {
      uint64_t bytes = 0;
      for (const GrantOfShard& b : attempt.blocks) bytes += b.header.length;
      after_ms += 2 * write_limit_ms(bytes);
    }
    free_later(std::move(attempt.blocks), after_ms);
    it = attempts_.erase(it);
  }
}

uint32_t ReplicaServer::Impl::granted_blocks() const {
  size_t count = quarantined_;
  for (const auto& [ticket, attempt] : attempts_) count += attempt.blocks.size();
  return static_cast<uint32_t>(count);
}

// ---- checks -------------------------------------------------------------------------------------

Status ReplicaServer::Impl::refuse_old(Epoch epoch, const std::string& what) const {
  if (epoch >= epoch_) return {};
  return fail(ErrorCode::kEpochOld,
              fmt::format("{} of epoch {} at {}, which is in {}", what, to_string(epoch),
                          options_.self.value, to_string(epoch_)));
}

// A request that was overtaken by a newer one of its writer must not be granted: nobody would come
// back for its blocks.
Status ReplicaServer::Impl::refuse_writer(const GrantRequest& request) {
  RETURN_IF_ERROR(refuse_old(request.epoch, "a grant request"));
  const WriterLife asks{request.ticket.session, request.epoch};
  WriterLife& newest = writers_[request.ticket.writer];
  if (asks < newest)
    return fail(ErrorCode::kEpochOld,
                fmt::format("a grant request of {} in session {}, epoch {} came after one in "
                            "session {}, epoch {}",
                            request.ticket.writer.value, asks.session, to_string(asks.epoch),
                            newest.session, to_string(newest.epoch)));
  newest = asks;
  if (attempts_.contains(request.ticket))
    return fail(ErrorCode::kReplicaRefused,
                fmt::format("attempt {} of {} was granted already", request.ticket.number,
                            request.ticket.writer.value));
  return {};
}

void ReplicaServer::Impl::find_verified(uint64_t job, const StateVersion& state,
                                        std::set<ShardId> shards, std::function<void(Found)> done) {
  std::vector<BlockInfo> candidates;
  for (const BlockInfo& block : arena_.scan()) {
    if (block.header && block.header->job == job && block.header->state == state &&
        shards.contains(block.header->shard))
      candidates.push_back(block);
  }
  if (candidates.empty()) {
    done({});
    return;
  }
  auto good = std::make_shared<std::vector<char>>(candidates.size());
  spread_aside(
      executor_, candidates.size(),
      [good, candidates, &arena = arena_](size_t i) {
        (*good)[i] = arena.read_verified(candidates[i].index, *candidates[i].header).has_value();
      },
      [weak = weak_from_this(), good, candidates, done = std::move(done)] {
        if (!weak.lock()) return;
        Found found;
        for (size_t i = 0; i < candidates.size(); ++i)
          ((*good)[i] ? found.good : found.bad).push_back(candidates[i]);
        done(std::move(found));
      });
}

// ---- requests -----------------------------------------------------------------------------------

void ReplicaServer::Impl::grant(const GrantRequest& request, Reply reply) {
  if (const Status refused = refuse_writer(request); !refused) {
    reply(fail(refused.error()));
    return;
  }
  const std::set<uint64_t> open(request.open.begin(), request.open.end());
  retire_if(request.ticket.writer, [&](const Ticket& t, const Attempt& attempt) {
    return t.session < request.ticket.session || attempt.epoch < request.epoch ||
           (t.number < request.ticket.number && !open.contains(t.number));
  });
  std::set<ShardId> shards;
  for (const ShardBytes& s : request.shards)
    if (!shards.insert(s.shard).second) {
      reply(fail(ErrorCode::kBadMessage,
                 fmt::format("a grant request of {} names {} twice", request.ticket.writer.value,
                             to_string(s.shard))));
      return;
    }
  find_verified(request.job, request.state, std::move(shards),
                [this, request, reply = std::move(reply)](const Found& found) {
                  const auto granted = allocate(request, found);
                  if (granted) {
                    reply(to_json_text(*granted));
                  } else {
                    reply(fail(granted.error()));
                  }
                });
}

Result<GrantReply> ReplicaServer::Impl::allocate(const GrantRequest& request, const Found& found) {
  // Time has passed while blocks were verified.
  RETURN_IF_ERROR(refuse_writer(request));
  if (fault_point_fails("replica.grant"))
    return fail(ErrorCode::kReplicaRefused, "fault point replica.grant");
  GrantReply granted{options_.fabric_address, {}, {}};
  Attempt attempt{request.epoch, {}, false};
  for (const ShardBytes& s : request.shards) {
    const BlockHeader header{request.job, s.shard, request.state, s.length, s.checksum};
    const bool held = std::any_of(found.good.begin(), found.good.end(),
                                  [&](const BlockInfo& b) { return b.header == header; });
    if (held) {
      granted.have.push_back(s.shard);
      continue;
    }
    const auto block = arena_.allocate(s.length, request.ticket.writer, request.epoch);
    if (!block) {
      free_now(attempt.blocks);  // nobody was told of them
      return fail(
          with_context(block.error(), fmt::format("granting {} shards to {}", request.shards.size(),
                                                  request.ticket.writer.value)));
    }
    attempt.blocks.push_back({*block, header});
    granted.blocks.push_back({s.shard, block->index.value, block->offset});
  }
  attempts_[request.ticket] = std::move(attempt);
  return granted;
}

void ReplicaServer::Impl::commit(const CommitRequest& request, Reply reply) {
  const auto it = attempts_.find(request.ticket);
  if (it == attempts_.end() || it->second.verifying) {
    reply(fail(ErrorCode::kReplicaRefused,
               fmt::format("attempt {} of {} is not open at {}", request.ticket.number,
                           request.ticket.writer.value, options_.self.value)));
    return;
  }
  it->second.verifying = true;
  auto good = std::make_shared<std::vector<char>>(it->second.blocks.size());
  spread_aside(
      executor_, good->size(),
      [good, blocks = it->second.blocks, &arena = arena_](size_t i) {
        (*good)[i] = bytes_match(arena, blocks[i]);
      },
      [weak = weak_from_this(), good, ticket = request.ticket, reply = std::move(reply)] {
        const auto self = weak.lock();
        if (!self) return;
        const auto published = self->publish(ticket, *good);
        if (published) {
          reply(to_json_text(*published));
        } else {
          reply(fail(published.error()));
        }
      });
}

Result<CommitReply> ReplicaServer::Impl::publish(const Ticket& ticket,
                                                 const std::vector<char>& good) {
  const auto node = attempts_.extract(ticket);
  const Attempt& attempt = node.mapped();
  Status allowed = refuse_old(attempt.epoch, "a commit");
  if (allowed && fault_point_fails("replica.commit"))
    allowed = fail(ErrorCode::kReplicaRefused, "fault point replica.commit");
  if (!allowed) {
    free_now(attempt.blocks);
    return fail(allowed.error());
  }
  CommitReply result;
  for (size_t i = 0; i < attempt.blocks.size(); ++i) {
    const GrantOfShard& b = attempt.blocks[i];
    if (!good[i] || !arena_.publish_verified(b.block.index, attempt.epoch, b.header))
      result.bad.push_back(b.header.shard);
  }
  free_now(attempt.blocks);  // those that were not published
  return result;
}

void ReplicaServer::Impl::release(const ReleaseRequest& request, Reply reply) {
  const auto it = attempts_.find(request.ticket);
  const bool known = it != attempts_.end();
  if (known && !it->second.verifying) {
    if (request.aborted) {
      free_later(std::move(it->second.blocks), options_.quarantine_ms);
    } else {
      free_now(it->second.blocks);
    }
    attempts_.erase(it);
  }
  reply(to_json_text(ReleaseReply{known}));
}

void ReplicaServer::Impl::locate(const LocateRequest& request, Reply reply) {
  if (const Status refused = refuse_old(request.epoch, "a locate request"); !refused) {
    reply(fail(refused.error()));
    return;
  }
  find_verified(request.job, request.state, {request.shards.begin(), request.shards.end()},
                [this, reply = std::move(reply)](const Found& found) {
                  // A bad block stays until the watermark passes it; it is not offered.
                  LocateReply result{options_.fabric_address, {}};
                  std::set<ShardId> named;
                  for (const BlockInfo& b : found.good) {
                    if (named.insert(b.header->shard).second)
                      result.blocks.push_back(
                          {b.header->shard, b.offset, b.header->length, b.header->checksum});
                  }
                  reply(to_json_text(result));
                });
}

// ---- the door -----------------------------------------------------------------------------------

ReplicaServer::ReplicaServer(ReplicaServerOptions options, Arena& arena, Executor& executor)
    : impl_(std::make_shared<Impl>(std::move(options), arena, executor)) {}
ReplicaServer::~ReplicaServer() = default;

void ReplicaServer::set_epoch(Epoch epoch) { impl_->set_epoch(epoch); }
void ReplicaServer::view_opened(Epoch epoch, const std::set<NodeId>& members) {
  impl_->view_opened(epoch, members);
}
uint32_t ReplicaServer::granted_blocks() const { return impl_->granted_blocks(); }

void ReplicaServer::handle(const std::string& target, const std::string& body, Reply reply) {
  const auto parsed = [&]<class Request>(Request* /*type*/) -> std::optional<Request> {
    auto request = from_json_text<Request>(body, target);
    if (request) return std::move(*request);
    reply(fail(request.error()));
    return std::nullopt;
  };
  if (target == kGrantTarget) {
    if (const auto r = parsed(static_cast<GrantRequest*>(nullptr))) impl_->grant(*r, reply);
  } else if (target == kCommitTarget) {
    if (const auto r = parsed(static_cast<CommitRequest*>(nullptr))) impl_->commit(*r, reply);
  } else if (target == kReleaseTarget) {
    if (const auto r = parsed(static_cast<ReleaseRequest*>(nullptr))) impl_->release(*r, reply);
  } else if (target == kLocateTarget) {
    if (const auto r = parsed(static_cast<LocateRequest*>(nullptr))) impl_->locate(*r, reply);
  } else {
    reply(fail(ErrorCode::kBadMessage, fmt::format("no replica request is called {}", target)));
  }
}

}  // namespace holdfast::storage
