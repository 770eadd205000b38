#include "daemon/node/restore_check.h"

#include <fmt/format.h>

#include <vector>

namespace holdfast::daemon {
namespace {

template <class... Args>
Status bad(const CommandRestore& command, fmt::format_string<Args...> text, Args&&... args) {
  return fail(ErrorCode::kBadMessage,
              fmt::format("restore of slot {} in epoch {}: {}", command.slot,
                          to_string(command.view.epoch),
                          fmt::format(text, std::forward<Args>(args)...)));
}

}  // namespace

Status check_restore(const CommandRestore& command, uint32_t shard_count) {
  const size_t lanes = command.view.members.size();
  if (command.lane >= lanes) return bad(command, "lane {} of {}", command.lane, lanes);
  if (command.view.owner_lane.size() != shard_count)
    return bad(command, "owners of {} shards, the job has {}", command.view.owner_lane.size(),
               shard_count);
  for (const uint32_t lane : command.view.owner_lane)
    if (lane >= lanes) return bad(command, "a shard is owned by lane {} of {}", lane, lanes);
  std::vector<bool> seen(shard_count);
  for (const SourcedShard& owned : command.owned) {
    if (owned.shard >= shard_count)
      return bad(command, "shard {} of {}", owned.shard, shard_count);
    if (seen[owned.shard]) return bad(command, "shard {} comes twice", owned.shard);
    seen[owned.shard] = true;
  }
  return {};
}

}  // namespace holdfast::daemon
