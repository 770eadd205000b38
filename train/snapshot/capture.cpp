#include "train/snapshot/capture.h"

#include <fmt/format.h>

#include <vector>

#include "base/checksum.h"
#include "base/fault_point.h"

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
  if (!protection.read_shard(block.shard, payload.first(bytes),
                             [&](std::span<const std::byte> piece) { sum.add(piece); }))
    return fail(ErrorCode::kTimeout,
                fmt::format("the update took the buffer of {} back before shard {} was copied",
                            to_string(protection.state()), block.shard));
  return BlockHeader{target.job, ShardId::unflat(block.shard, target.slices), protection.state(),
                     bytes, sum.value()};
}

}  // namespace

Result<StateVersion> capture_into(std::unique_ptr<Trainer::Protection> protection,
                                  const CaptureTarget& target, Epoch granted_in,
                                  std::span<const ShardBlock> blocks,
                                  const std::atomic<bool>& cancelled) {
  const StateVersion state = protection->state();
  const auto stopped = [&] { return cancelled.load(std::memory_order_acquire); };
  std::vector<BlockHeader> headers;
  for (const ShardBlock& block : blocks) {
    if (stopped()) return fail(ErrorCode::kCommAborted, "the view ended");
    ASSIGN_OR_RETURN(BlockHeader header, copy_shard(*protection, target, block));
    headers.push_back(std::move(header));
  }
  protection.reset();  // the update may have the buffer; publishing needs it no more
  if (fault_point_fails("worker.capture"))
    return fail(ErrorCode::kInternal, "fault point worker.capture");
  if (stopped()) return fail(ErrorCode::kCommAborted, "the view ended");
  for (size_t i = 0; i < blocks.size(); ++i)
    RETURN_IF_ERROR(target.arena.publish(BlockIndex(blocks[i].block), granted_in, headers[i]));
  return state;
}

}  // namespace holdfast::train
