#include "storage/replica/capacity.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "storage/arena/layout.h"

namespace holdfast::storage {
namespace {

using layout::kBytesPerEntry;
using layout::kFewestEntries;
using layout::kPage;
constexpr uint64_t kEntryBytes = sizeof(layout::EntryWords);

uint64_t up(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

std::string mebibytes(uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

// What one worker owns at most.
struct Share {
  uint64_t bytes = 0;
  uint64_t shards = 0;
};

Share share_of_worker(const ArenaDemand& demand, uint64_t lanes_left) {
  uint64_t all = 0;
  uint64_t largest = 0;
  for (const uint64_t bytes : demand.shard_bytes) {
    const uint64_t block = std::max(kPage, up(bytes, kPage));
    all += block;
    largest = std::max(largest, block);
  }
  const uint64_t bytes = std::min(all, up(all / lanes_left + largest, kPage));
  return {bytes, std::min<uint64_t>(demand.shard_bytes.size(), bytes / kPage)};
}

// The file's entries are one per 32 KiB: a job of very small shards needs more bytes to get them.
uint64_t overhead(uint64_t payload_bytes, uint64_t blocks) {
  uint64_t file = payload_bytes + kPage;
  for (;;) {
    const uint64_t entries = std::max(kFewestEntries, file / kBytesPerEntry);
    const uint64_t needed = kPage + up(entries * kEntryBytes, kPage) + payload_bytes;
    if (file >= needed && (entries >= blocks || file >= blocks * kBytesPerEntry))
      return file - payload_bytes;
    file = std::max({needed, file + kPage, blocks > kFewestEntries ? blocks * kBytesPerEntry : 0});
  }
}

}  // namespace

ArenaNeed arena_need(const ArenaDemand& demand) {
  CHECK(demand.lanes > 0);
  const uint64_t lanes_left =
      demand.lanes > demand.spare_failures ? demand.lanes - demand.spare_failures : 1;
  const Share share = share_of_worker(demand, lanes_left);
  // Lost lanes are also lost owners: nobody holds more workers' captures than there are others.
  const uint64_t held = std::min<uint64_t>(demand.workers_held, lanes_left - 1);
  ArenaNeed need;
  need.own_bytes = share.bytes * demand.workers_on_node * kSlotsPerShard;
  need.workers_held = held;
  need.replica_bytes = share.bytes * held * kSlotsPerShard;
  const uint64_t blocks = share.shards * (demand.workers_on_node + held) * kSlotsPerShard;
  need.blocks = static_cast<uint32_t>(std::min<uint64_t>(blocks, UINT32_MAX));
  need.overhead_bytes = overhead(need.own_bytes + need.replica_bytes, blocks);
  return need;
}

std::string ArenaNeed::text(const ArenaDemand& demand) const {
  return fmt::format(
      "{}: {} for {} versions of the shards of {} workers, {} for the replicas of {} others, {} "
      "for "
      "the block table; with room for {} of {} lanes lost",
      mebibytes(total_bytes()), mebibytes(own_bytes), kSlotsPerShard, demand.workers_on_node,
      mebibytes(replica_bytes), workers_held, mebibytes(overhead_bytes), demand.spare_failures,
      demand.lanes);
}

Status check_arena(const NodeId& node, uint64_t arena_bytes, const ArenaDemand& demand) {
  const ArenaNeed need = arena_need(demand);
  if (need.total_bytes() <= arena_bytes) return {};
  return fail(ErrorCode::kArenaTooSmall,
              fmt::format("the arena of {} has {} bytes, the job needs {} there ({})", node.value,
                          arena_bytes, need.total_bytes(), need.text(demand)));
}

}  // namespace holdfast::storage
