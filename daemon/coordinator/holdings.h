// Which copies of which shards exist, as workers and daemons reported them after Quiesce. Pure.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "daemon/coordinator/types.h"
#include "storage/replica/history.h"

namespace holdfast::daemon {

// Where one shard lies at one state.
struct Copies {
  std::set<WorkerId> buffers;  // only that worker can use it
  std::set<NodeId> arenas;     // any worker can fetch it
};

class Holdings {
 public:
  // `ignore_made`: states are told apart by their number alone (a fault for the random walk).
  explicit Holdings(uint32_t shard_count, bool ignore_made = false)
      : shard_count_(shard_count), ignore_made_(ignore_made) {}

  void add_buffer(const WorkerId& worker, const std::vector<HeldShards>& held);
  void add_arena(const NodeId& node, const std::vector<HeldShards>& held);

  // nullptr: nobody has it.
  const Copies* find(uint32_t shard, const StateVersion& state) const;

  // Whether a worker's buffer of a shard is of use: it is a lane of the shard's stage.
  using BufferCounts = std::function<bool(uint32_t shard, const WorkerId& worker)>;
  // The states of the line that `history` describes at which every shard can be had, from an arena or a
  // buffer that counts; the newest first. Version 0 is not among them: that can be computed.
  std::vector<StateVersion> complete_states(std::span<const storage::ViewBase> history,
                                            const BufferCounts& counts) const;

 private:
  StateVersion key(const StateVersion& state) const {
    return ignore_made_ ? StateVersion{state.version, Epoch{}} : state;
  }
  bool complete(const std::vector<Copies>& shards, const BufferCounts& counts) const;

  const uint32_t shard_count_;
  const bool ignore_made_;
  std::map<StateVersion, std::vector<Copies>> states_;
};

}  // namespace holdfast::daemon
