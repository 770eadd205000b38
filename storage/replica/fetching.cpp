#include "storage/replica/fetching.h"

#include <fmt/format.h>

#include <utility>

#include "base/checksum.h"
#include "base/fault_point.h"

namespace holdfast::storage {

Fetching::Fetching(const ReplicatorOptions& options, Arena& arena, PeerLinks& links,
                   Executor& executor, const PeerCall& call)
    : options_(options), arena_(arena), links_(links), executor_(executor), call_(call) {}

void Fetching::set_epoch(Epoch epoch) {
  epoch_ = epoch;
  const std::set<FetchPtr> over = open_;
  for (const FetchPtr& fetch : over)
    all_failed(fetch, {ErrorCode::kEpochOld,
                       fmt::format("fetch from {} in epoch {}: it is {} now", fetch->from.value,
                                   to_string(fetch->epoch), to_string(epoch))});
}

void Fetching::start(Epoch epoch, uint64_t job, const StateVersion& state,
                     const std::vector<WantedShard>& shards, const NodeId& from, Done done) {
  auto fetch = std::make_shared<Fetch>();
  fetch->epoch = epoch;
  fetch->job = job;
  fetch->state = state;
  fetch->from = from;
  LocateRequest request{epoch, job, state, {}};
  for (const WantedShard& wanted : shards) {
    if (!fetch->wanted.insert(wanted.shard).second) continue;
    fetch->lengths[wanted.shard] = wanted.length;
    request.shards.push_back(wanted.shard);
  }
  fetch->done = std::move(done);
  open_.insert(fetch);
  if (epoch != epoch_) {
    all_failed(fetch, {ErrorCode::kEpochOld, fmt::format("fetch in epoch {}: it is {} now",
                                                         to_string(epoch), to_string(epoch_))});
    return;
  }
  // The holder verifies what it names; how many bytes that is only it knows.
  const int64_t timeout_ms =
      options_.call_timeout_ms + static_cast<int64_t>(arena_.usage().size_bytes >> 26) * 1'000;
  call_(from, kLocateTarget, to_json_text(request), timeout_ms,
        [weak = weak_from_this(), fetch](const Result<std::string>& reply) {
          const auto self = weak.lock();
          if (self && !fetch->ended) self->located(fetch, reply);
        });
}

void Fetching::located(const FetchPtr& fetch, const Result<std::string>& reply) {
  Status status = reply ? read_all(fetch, *reply) : fail(reply.error());
  if (status && fault_point_fails("replica.fetch"))
    status = fail(ErrorCode::kFabricLost, "fault point replica.fetch");
  if (!status) {
    all_failed(fetch, status.error());
    return;
  }
  // What is not being read now will not come.
  const std::set<ShardId> wanted = fetch->wanted;
  for (const ShardId shard : wanted) {
    if (fetch->ended) return;
    if (!fetch->reading.contains(shard))
      shard_failed(fetch, shard,
                   {ErrorCode::kBlockMissing,
                    fmt::format("{} holds no good copy of {} at {}", fetch->from.value,
                                to_string(shard), to_string(fetch->state))});
  }
  end_if_settled(fetch);
}

// Before any room is taken for what it names.
Status Fetching::check(const Fetch& fetch, const LocateReply& reply) const {
  std::set<ShardId> named;
  for (const LocatedBlock& block : reply.blocks) {
    const auto asked = fetch.lengths.find(block.shard);
    if (asked == fetch.lengths.end() || !named.insert(block.shard).second)
      return fail(ErrorCode::kBadMessage,
                  fmt::format("{} names {}, which was {}", fetch.from.value,
                              to_string(block.shard),
                              asked == fetch.lengths.end() ? "not asked for" : "named already"));
    if (block.length != asked->second)
      return fail(ErrorCode::kBadMessage,
                  fmt::format("{} names {} bytes of {}, which has {}", fetch.from.value,
                              block.length, to_string(block.shard), asked->second));
  }
  return {};
}

Status Fetching::read_all(const FetchPtr& fetch, const std::string& text) {
  ASSIGN_OR_RETURN(const auto reply,
                   from_json_text<LocateReply>(text, "blocks of " + fetch->from.value));
  RETURN_IF_ERROR(check(*fetch, reply));
  for (const LocatedBlock& block : reply.blocks) {
    ASSIGN_OR_RETURN(const BlockInfo own,
                     arena_.allocate(block.length, options_.self, fetch->epoch));
    Reading& reading = fetch->reading[block.shard];
    reading = {own, {fetch->job, block.shard, fetch->state, block.length, block.checksum}, 0};
    reading.link =
        links_.start(fetch->from, reply.fabric_address,
                     {Transfer::Kind::kRead, own.offset, block.offset, block.length},
                     [weak = weak_from_this(), fetch, shard = block.shard](const Status& status) {
                       const auto self = weak.lock();
                       if (self && !fetch->ended) self->read_done(fetch, shard, status);
                     });
  }
  return {};
}

void Fetching::read_done(const FetchPtr& fetch, ShardId shard, const Status& status) {
  if (status) {
    verify(fetch, shard);
  } else {
    shard_failed(fetch, shard, status.error());
  }
}

// The block leaves `reading`: until the check is over it is in use, whatever becomes of the fetch.
void Fetching::verify(const FetchPtr& fetch, ShardId shard) {
  const Reading reading = fetch->reading.extract(shard).mapped();
  auto good = std::make_shared<bool>(false);
  executor_.aside(
      [good, reading, &arena = arena_] {
        const auto payload = arena.payload(reading.block.index);
        *good =
            payload && checksum64(payload->first(reading.header.length)) == reading.header.checksum;
      },
      [weak = weak_from_this(), fetch, reading, good] {
        if (const auto self = weak.lock()) self->verified(fetch, reading, *good);
      });
}

void Fetching::verified(const FetchPtr& fetch, const Reading& reading, bool good) {
  const ShardId shard = reading.header.shard;
  const Status published =
      fetch->ended || !good
          ? fail(ErrorCode::kBlockInvalid,
                 fmt::format("{} at {} arrived from {} with another checksum", to_string(shard),
                             to_string(fetch->state), fetch->from.value))
          : arena_.publish_verified(reading.block.index, fetch->epoch, reading.header);
  if (!published) (void)arena_.free(reading.block);
  if (fetch->ended) return;
  if (!published) {
    shard_failed(fetch, shard, published.error());
    return;
  }
  fetch->wanted.erase(shard);
  fetch->result.blocks.push_back({shard, reading.block.index});
  end_if_settled(fetch);
}

void Fetching::shard_failed(const FetchPtr& fetch, ShardId shard, const Error& error) {
  if (const auto it = fetch->reading.find(shard); it != fetch->reading.end()) {
    links_.close(fetch->from, it->second.link);  // before the block may be used for something else
    (void)arena_.free(it->second.block);
    fetch->reading.erase(it);
  }
  fetch->wanted.erase(shard);
  if (fetch->result.failed.empty()) fetch->result.error = error;
  fetch->result.failed.push_back(shard);
  end_if_settled(fetch);
}

void Fetching::all_failed(const FetchPtr& fetch, const Error& error) {
  const std::set<ShardId> wanted = fetch->wanted;
  for (const ShardId shard : wanted) shard_failed(fetch, shard, error);
  end_if_settled(fetch);
}

void Fetching::end_if_settled(const FetchPtr& fetch) {
  if (fetch->ended || !fetch->wanted.empty()) return;
  fetch->ended = true;
  open_.erase(fetch);
  executor_.post([fetch] { fetch->done(std::move(fetch->result)); });
}

}  // namespace holdfast::storage
