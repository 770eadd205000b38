#include "daemon/coordinator/decide.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "storage/replica/capacity.h"
#include "storage/replica/placement.h"

namespace holdfast::daemon {
namespace {

// A lane that adopts orphans may own this much more than an even share before moving bytes is
// preferred to keeping them local.
constexpr double kLocalOverload = 1.5;

struct Owners {
  std::vector<uint32_t> lane;   // by shard
  std::vector<uint64_t> bytes;  // by lane
};

bool can_own(const Copies* copies, const Member& member, bool initial) {
  return initial || (copies && (!copies->arenas.empty() || copies->buffers.contains(member.worker)));
}

// As can_own, and not by a fetch that has just failed.
bool can_reach(const DecideInput& input, const Copies* copies, const Member& member, bool initial) {
  if (initial || (copies && copies->buffers.contains(member.worker))) return true;
  return copies && std::any_of(copies->arenas.begin(), copies->arenas.end(), [&](const NodeId& from) {
           return !input.unreached.contains({member.worker.node, from});
         });
}

bool has_locally(const Copies* copies, const Member& member) {
  return copies && (copies->buffers.contains(member.worker) ||
                    copies->arenas.contains(member.worker.node));
}

// The lane at the shard's home coordinate owns it; an orphan goes to the least loaded lane that has it
// already, or to the least loaded lane when those are overloaded.
uint32_t choose_owner(const DecideInput& input, const std::vector<Member>& members,
                      const Copies* copies, bool initial, uint32_t home, uint64_t bytes,
                      uint64_t even_share, const Owners& owners) {
  const bool reached = std::any_of(members.begin(), members.end(), [&](const Member& m) {
    return can_reach(input, copies, m, initial);
  });
  std::optional<uint32_t> local, least;
  for (uint32_t lane = 0; lane < members.size(); ++lane) {
    if (!can_own(copies, members[lane], initial)) continue;
    if (reached && !can_reach(input, copies, members[lane], initial)) continue;
    if (members[lane].coordinate.value == home) return lane;
    if (!least || owners.bytes[lane] < owners.bytes[*least]) least = lane;
    if (has_locally(copies, members[lane]) &&
        (!local || owners.bytes[lane] < owners.bytes[*local]))
      local = lane;
  }
  CHECK(least.has_value());
  const auto limit = static_cast<uint64_t>(kLocalOverload * static_cast<double>(even_share));
  return local && owners.bytes[*local] + bytes <= limit ? *local : *least;
}

Owners choose_owners(const DecideInput& input, const Holdings& holdings, const StateVersion& base,
                     const std::vector<Member>& members) {
  uint64_t total = 0;
  for (const uint64_t bytes : input.shard_bytes) total += bytes;
  const uint64_t even_share = total / members.size() + 1;
  const bool initial = base.version == Version(0);

  Owners owners{std::vector<uint32_t>(input.shard_bytes.size()),
                std::vector<uint64_t>(members.size(), 0)};
  std::vector<uint32_t> orphans;
  const auto assign = [&](uint32_t shard) {
    const Copies* copies = holdings.find(shard, base);
    const uint32_t home = (shard % input.slices) % input.pipelines;
    const uint32_t lane = choose_owner(input, members, copies, initial, home,
                                       input.shard_bytes[shard], even_share, owners);
    owners.lane[shard] = lane;
    owners.bytes[lane] += input.shard_bytes[shard];
  };
  for (uint32_t shard = 0; shard < input.shard_bytes.size(); ++shard) {
    const uint32_t home = (shard % input.slices) % input.pipelines;
    const bool lives = std::any_of(members.begin(), members.end(), [&](const Member& m) {
      return m.coordinate.value == home && can_own(holdings.find(shard, base), m, initial);
    });
    if (lives) {
      assign(shard);
    } else {
      orphans.push_back(shard);
    }
  }
  for (const uint32_t shard : orphans) assign(shard);  // they see the others' load
  return owners;
}

SourcedShard source_of(const DecideInput& input, uint32_t shard, const Copies* copies,
                       const Member& member) {
  const NodeId& self = member.worker.node;
  if (copies && copies->buffers.contains(member.worker)) return {shard, ShardSource::kBuffer, {}};
  if (!copies || copies->arenas.empty()) return {shard, ShardSource::kInitial, {}};
  std::vector<NodeId> sources;
  for (const NodeId& from : copies->arenas)
    if (!input.unreached.contains({self, from})) sources.push_back(from);
  if (sources.empty()) sources.assign(copies->arenas.begin(), copies->arenas.end());  // once more
  if (std::find(sources.begin(), sources.end(), self) != sources.end())
    return {shard, ShardSource::kArena, {}};
  return {shard, ShardSource::kReplica, sources[shard % sources.size()]};  // spread over them
}

void name_holders(const DecideInput& input, const Owners& owners, std::vector<Member>& members) {
  std::map<NodeId, uint64_t> bytes;  // of all lanes of a node: they share its holders
  for (uint32_t lane = 0; lane < members.size(); ++lane)
    bytes[members[lane].worker.node] += owners.bytes[lane] * storage::kSlotsPerShard;
  std::vector<storage::HolderNode> nodes;
  for (const NodePlace& place : input.nodes) {
    const auto own = bytes.find(place.node);
    const bool member = own != bytes.end();
    nodes.push_back({place.node, place.failure_domain, place.arena_bytes,
                     member ? own->second : 0, member});
  }
  std::vector<storage::Captures> captures;
  for (const auto& [node, own] : bytes) captures.push_back({node, own});
  const auto choices = storage::assign_holders(captures, input.replicas, std::move(nodes));
  for (Member& member : members) member.holders = choices.at(member.worker.node).holders;
}

}  // namespace

std::vector<Member> choose_members(const DecideInput& input) {
  const auto before = [&](const WorkerId& worker) -> std::optional<Coordinate> {
    for (const Member& m : input.previous)
      if (m.worker == worker) return m.coordinate;
    return std::nullopt;
  };
  std::vector<WorkerId> workers = input.workers;
  std::sort(workers.begin(), workers.end(), [&](const WorkerId& a, const WorkerId& b) {
    const bool a_survives = before(a).has_value(), b_survives = before(b).has_value();
    return a_survives != b_survives ? a_survives : a < b;
  });
  if (workers.size() > input.pipelines) workers.resize(input.pipelines);

  std::vector<Member> members;
  std::set<Coordinate> taken;
  for (const WorkerId& worker : workers) {
    const auto coordinate = before(worker);
    if (!coordinate || coordinate->value >= input.pipelines) continue;
    members.push_back({worker, *coordinate, {}});
    taken.insert(*coordinate);
  }
  Coordinate next(0);
  for (const WorkerId& worker : workers) {
    if (before(worker)) continue;
    while (taken.contains(next)) next = next.next();
    members.push_back({worker, next, {}});
    taken.insert(next);
  }
  std::sort(members.begin(), members.end(),
            [](const Member& a, const Member& b) { return a.coordinate < b.coordinate; });
  return members;
}

Decision decide(const DecideInput& input, const Holdings& holdings) {
  CHECK(!input.workers.empty());
  std::vector<Member> members = choose_members(input);
  std::set<WorkerId> living;
  for (const Member& m : members) living.insert(m.worker);
  const StateVersion base = holdings.newest_complete(input.history, living);
  const Owners owners = choose_owners(input, holdings, base, members);
  name_holders(input, owners, members);

  Decision decision;
  decision.owned.resize(members.size());
  uint32_t kept = 0, from_arena = 0, fetched = 0, initial = 0;
  for (uint32_t shard = 0; shard < input.shard_bytes.size(); ++shard) {
    const uint32_t lane = owners.lane[shard];
    SourcedShard source = source_of(input, shard, holdings.find(shard, base), members[lane]);
    switch (source.source) {
      case ShardSource::kBuffer: ++kept; break;
      case ShardSource::kArena: ++from_arena; break;
      case ShardSource::kReplica:
        ++fetched;
        decision.bytes_moved += input.shard_bytes[shard];
        break;
      case ShardSource::kInitial: ++initial; break;
    }
    decision.owned[lane].push_back(std::move(source));
  }
  const std::string why =
      fmt::format("{} lanes at {}: {} shards kept, {} from own arenas, {} from replicas, {} initial",
                  members.size(), to_string(base), kept, from_arena, fetched, initial);
  decision.view = View{input.epoch, input.job, base, std::move(members), owners.lane, why};
  return decision;
}

}  // namespace holdfast::daemon
