#include "train/snapshot/capture.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/checksum.h"
#include "base/fault_point.h"
#include "base/threads.h"

namespace holdfast::train {
namespace {

using storage::BlockHeader;
using storage::BlockIndex;

Result<BlockHeader> copy_shard(Trainer::Protection& protection, const CaptureTarget& target,
                               const ShardBlock& block) {
  const size_t bytes = target.shard_bytes(block.shard);
  ASSIGN_OR_RETURN(const std::span<std::byte> payload,
                   target.arena.payload(BlockIndex(block.block)));
  if (payload.size() < bytes)
    return fail(ErrorCode::kBlockInvalid,
                fmt::format("block {} has room for {} bytes, shard {} needs {}", block.block,
                            payload.size(), block.shard, bytes));
  // Sums what lies in the arena, piece by piece as it is copied there.
  Checksum sum;
  RETURN_IF_ERROR(protection.read_shard(block.shard, payload.first(bytes),
                                        [&](std::span<const std::byte> piece) { sum.add(piece); }));
  return BlockHeader{target.job, ShardId::unflat(block.shard, target.slices), protection.state(),
                     bytes, sum.value()};
}

// All shards or, with the first error, none. A sum takes longer than the copy from an accelerator:
// several threads, each with a shard of its own, keep copies going.
Result<std::vector<BlockHeader>> copy_shards(Trainer::Protection& protection,
                                             const CaptureTarget& target,
                                             std::span<const ShardBlock> blocks,
                                             const std::atomic<bool>& cancelled) {
  std::vector<Result<BlockHeader>> copies(blocks.size(),
                                          fail(ErrorCode::kCommAborted, "the view ended"));
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  run_on_threads(std::min<size_t>(target.threads, blocks.size()), [&] {
    while (!failed.load(std::memory_order_relaxed) && !cancelled.load(std::memory_order_acquire)) {
      const size_t at = next.fetch_add(1, std::memory_order_relaxed);
      if (at >= blocks.size()) return;
      copies[at] = copy_shard(protection, target, blocks[at]);
      if (!copies[at]) failed.store(true, std::memory_order_relaxed);
    }
  });
  std::vector<BlockHeader> headers;
  // The error that stopped the others before those that were not begun.
  for (size_t at = std::min(next.load(), blocks.size()); at-- > 0;)
    if (!copies[at] && copies[at].error().code != ErrorCode::kCommAborted)
      return fail(copies[at].error());
  for (Result<BlockHeader>& copy : copies) {
    if (!copy) return fail(copy.error());
    headers.push_back(std::move(*copy));
  }
  return headers;
}

}  // namespace

Result<StateVersion> capture_into(std::unique_ptr<Trainer::Protection> protection,
                                  const CaptureTarget& target, Epoch granted_in,
                                  std::span<const ShardBlock> blocks,
                                  const std::atomic<bool>& cancelled) {
  const StateVersion state = protection->state();
  const auto stopped = [&] { return cancelled.load(std::memory_order_acquire); };
  ASSIGN_OR_RETURN(const std::vector<BlockHeader> headers,
                   copy_shards(*protection, target, blocks, cancelled));
  protection.reset();  // the update may have the buffer; publishing needs it no more
  if (fault_point_fails("worker.capture"))
    return fail(ErrorCode::kInternal, "fault point worker.capture");
  if (stopped()) return fail(ErrorCode::kCommAborted, "the view ended");
  for (size_t i = 0; i < blocks.size(); ++i)
    RETURN_IF_ERROR(target.arena.publish(BlockIndex(blocks[i].block), granted_in, headers[i]));
  return state;
}

}  // namespace holdfast::train
