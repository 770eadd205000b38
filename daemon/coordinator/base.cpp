#include "daemon/coordinator/base.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "daemon/coordinator/owners.h"
#include "daemon/coordinator/sources.h"

namespace holdfast::daemon {
namespace {

// A fetch that failed of late is likely to end one more view.
constexpr double kRetrySeconds = 10;

std::vector<StateVersion> complete_states(const DecideInput& input, const Holdings& holdings,
                                          const std::vector<Member>& members) {
  std::map<WorkerId, StageIndex> stage_of;
  for (const Member& m : members) stage_of[m.worker] = m.coordinate.stage;
  return holdings.complete_states(input.history, [&](uint32_t shard, const WorkerId& worker) {
    const auto stage = stage_of.find(worker);
    return stage != stage_of.end() &&
           (input.test_ignore_stage || stage->second == input.shards.stage[shard]);
  });
}

struct Way {
  uint64_t fetched_bytes = 0;  // of the node that fetches or gives most
  double seconds = 0;          // until every shard is with its owner
};

Way way_to(const DecideInput& input, const Holdings& holdings, const std::vector<Member>& members,
           const StateVersion& state) {
  const Owners owners = choose_owners(input, holdings, state, members);
  std::map<NodeId, uint64_t> in, out, loaded;
  bool failed = false;  // a fetch, there, of late
  for (uint32_t shard = 0; shard < input.shards.bytes.size(); ++shard) {
    const Member& owner = members[owners.lane[shard]];
    const SourcedShard from = source_of(input, shard, holdings.find(shard, state), owner);
    const uint64_t bytes = input.shards.bytes[shard];
    if (from.source != ShardSource::kReplica && from.source != ShardSource::kArena) continue;
    loaded[owner.worker.node] += bytes;
    if (from.source == ShardSource::kArena) continue;
    in[owner.worker.node] += bytes;
    out[from.from] += bytes;
    failed = failed || input.unreached.contains({owner.worker.node, from.from});
  }
  const auto most = [](const std::map<NodeId, uint64_t>& bytes) {
    uint64_t largest = 0;
    for (const auto& [node, count] : bytes) largest = std::max(largest, count);
    return largest;
  };
  const uint64_t fetched = std::max(most(in), most(out));
  return {fetched, (failed ? kRetrySeconds : 0) +
                       static_cast<double>(fetched) / input.fetch_bytes_per_second +
                       static_cast<double>(most(loaded)) / input.load_bytes_per_second};
}

}  // namespace

StateVersion newest_base(const DecideInput& input, const Holdings& holdings,
                         const std::vector<Member>& members) {
  const auto states = complete_states(input, holdings, members);
  return states.empty() ? StateVersion{} : states.front();
}

bool can_begin_with(const DecideInput& input, const Holdings& holdings,
                    const std::vector<Member>& members, const StateVersion& state) {
  if (state.version == Version(0)) return true;
  const auto states = complete_states(input, holdings, members);
  return std::find(states.begin(), states.end(), state) != states.end();
}

BaseChoice choose_base(const DecideInput& input, const Holdings& holdings,
                       const std::vector<Member>& members) {
  const auto states = complete_states(input, holdings, members);
  if (states.empty()) return {};
  BaseChoice choice{states.front(), ""};
  // How long a step takes is not known before the first, and without captures there is no older one.
  if (input.step_seconds <= 0 || input.replicas == 0) return choice;
  // All is done, and only to be kept.
  if (choice.state.version.value >= input.job.steps) return choice;
  const Way newest = way_to(input, holdings, members, states.front());
  double least = newest.seconds;
  // Those that are left do all the work.
  const double slower = std::max(1.0, static_cast<double>(input.previous.size()) /
                                          static_cast<double>(members.size()));
  for (const StateVersion& older : states) {
    if (older.version < input.safe.version || older == states.front()) continue;
    const uint64_t steps = states.front().version.value - older.version.value;
    const Way way = way_to(input, holdings, members, older);
    const double seconds = static_cast<double>(steps) * input.step_seconds * slower + way.seconds;
    if (seconds >= least) continue;
    least = seconds;
    choice = {older,
              fmt::format(", not {}: {} more {} done again take {:.2f} s with what is at hand, "
                          "bringing {:.2f} GB of the newest {:.2f} s",
                          to_string(states.front()), steps, steps == 1 ? "step" : "steps", seconds,
                          static_cast<double>(newest.fetched_bytes) / 1e9, newest.seconds)};
  }
  return choice;
}

}  // namespace holdfast::daemon
