// Reading a job's state out of this node's arena: which shards it holds, and verified ranges of them.
// Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "daemon/control/api.h"
#include "daemon/http/messages.h"
#include "storage/arena/arena.h"

namespace holdfast::daemon {

// What a request below /v1/snapshots/ asks for.
struct ShardQuery {
  uint64_t job = 0;  // BlockHeader::job
  StateVersion state;
  std::optional<ShardId> shard;  // nullopt: the list
  uint64_t offset = 0;           // of the range in the payload, bytes
  uint64_t length = 0;
  bool hold = true;  // what is read stays a while; false: the reader is done
  NodeId node;       // who is asked; empty: whoever got the request
};
// kUsage naming the part that is none.
Result<ShardQuery> parse_shard_query(const HttpRequest& request);

// The published blocks of that state, each shard once, in order.
std::vector<ShardId> held_shards(storage::Arena& arena, const ShardQuery& query);

// The range, of the first good block. kBlockMissing when there is none, kBlockInvalid when none of
// them has its checksum, kUsage when the range is not within the payload.
Result<api::ShardRange> read_shard_range(storage::Arena& arena, const NodeId& self,
                                         const ShardQuery& query);

}  // namespace holdfast::daemon
