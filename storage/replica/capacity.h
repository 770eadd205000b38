// How many bytes of arena a node needs for a job, and for what: checked before a job starts, so
// that a capture never runs out of room. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace holdfast::storage {

// The newest safe version, one that awaits the watermark, one that is being written.
inline constexpr uint32_t kSlotsPerShard = 3;

struct ArenaDemand {
  std::vector<uint64_t> shard_bytes;  // of every shard of the job
  uint32_t lanes = 1;                 // live workers when nothing has failed
  uint32_t workers_on_node = 1;
  uint32_t spare_failures = 0;  // lost lanes whose shards the others take over
  // Workers of other nodes whose captures this node holds. With equal failure domains: the
  // replica count times workers_on_node; one small domain beside large ones holds more.
  uint32_t workers_held = 1;
};

struct ArenaNeed {
  uint64_t own_bytes = 0;       // kSlotsPerShard versions of what the node's workers own
  uint64_t replica_bytes = 0;   // and of what it holds for others
  uint64_t overhead_bytes = 0;  // superblock and block table
  uint32_t blocks = 0;
  uint64_t workers_held = 0;  // whose captures replica_bytes counts

  uint64_t total_bytes() const { return own_bytes + replica_bytes + overhead_bytes; }
  // "12.0 MiB: 6.0 MiB for ..., ..."
  std::string text(const ArenaDemand& demand) const;
};

// An upper bound for every assignment of owners that is even up to one shard: a worker then owns at
// most (all bytes / live lanes) + the largest shard. Payloads are rounded up to whole pages.
ArenaNeed arena_need(const ArenaDemand& demand);

// kArenaTooSmall saying how many bytes `node` needs and for what.
Status check_arena(const NodeId& node, uint64_t arena_bytes, const ArenaDemand& demand);

}  // namespace holdfast::storage
