// Capture: copies one version's owned shards out of the trainer's buffers into blocks of the arena
// that the daemon granted, while training goes on (DESIGN.md, section 8).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "base/ids.h"
#include "base/result.h"
#include "storage/arena/arena.h"
#include "train/step/trainer.h"
#include "train/worker/messages.h"

namespace holdfast::train {

// Where captures go.
struct CaptureTarget {
  storage::ArenaMapping& arena;
  uint64_t job = 0;     // job_hash
  uint32_t slices = 0;  // P
  std::function<size_t(uint32_t shard)> shard_bytes;
  uint32_t threads = 1;  // that copy and sum
};

// Copies every shard, gives the protection back, then publishes: all headers or, when anything fails
// before the first, none. `granted_in`: the epoch of the blocks. kTimeout: the trainer took the buffer
// back; kDeviceFailed; kCommAborted: cancelled; kBlockInvalid, kBlockMissing: the block is not ours to
// write.
Result<StateVersion> capture_into(std::unique_ptr<Trainer::Protection> protection,
                                  const CaptureTarget& target, Epoch granted_in,
                                  std::span<const ShardBlock> blocks,
                                  const std::atomic<bool>& cancelled);

}  // namespace holdfast::train
