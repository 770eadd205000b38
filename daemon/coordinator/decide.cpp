#include "daemon/coordinator/decide.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "daemon/coordinator/base.h"
#include "daemon/coordinator/moves.h"
#include "daemon/coordinator/owners.h"
#include "daemon/coordinator/sources.h"
#include "storage/replica/capacity.h"
#include "storage/replica/placement.h"

namespace holdfast::daemon {
namespace {

void name_holders(const DecideInput& input, const Owners& owners, std::vector<Member>& members) {
  std::map<NodeId, uint64_t> bytes;  // of all lanes of a node: they share its holders
  for (uint32_t lane = 0; lane < members.size(); ++lane)
    bytes[members[lane].worker.node] += owners.bytes[lane] * storage::kSlotsPerShard;
  std::map<NodeId, std::set<StageIndex>> stages;
  for (const Member& m : members) stages[m.worker.node].insert(m.coordinate.stage);
  std::vector<storage::HolderNode> nodes;
  for (const NodePlace& place : input.nodes) {
    const auto own = bytes.find(place.node);
    nodes.push_back({place.node, place.failure_domain, place.arena_bytes,
                     own != bytes.end() ? own->second : 0, stages[place.node]});
  }
  std::vector<storage::Captures> captures;
  for (const auto& [node, own] : bytes) captures.push_back({node, own});
  const auto choices = storage::assign_holders(captures, input.replicas, std::move(nodes));
  for (Member& member : members) member.holders = choices.at(member.worker.node).holders;
}

}  // namespace

Decision decide(const DecideInput& input, const Holdings& holdings) {
  std::vector<Member> members = choose_members(input, holdings);
  BaseChoice choice = choose_base(input, holdings, members);
  Normalization normal = normalize(input, holdings, std::move(members), choice.state);
  members = std::move(normal.members);
  if (!normal.text.empty()) choice = choose_base(input, holdings, members);  // others fetch now
  const StateVersion base = choice.state;
  const Owners owners = choose_owners(input, holdings, base, members);
  name_holders(input, owners, members);

  Decision decision;
  decision.owned.resize(members.size());
  uint32_t kept = 0, from_arena = 0, fetched = 0, initial = 0;
  for (uint32_t shard = 0; shard < input.shards.bytes.size(); ++shard) {
    const uint32_t lane = owners.lane[shard];
    SourcedShard source = source_of(input, shard, holdings.find(shard, base), members[lane]);
    switch (source.source) {
      case ShardSource::kBuffer: ++kept; break;
      case ShardSource::kArena: ++from_arena; break;
      case ShardSource::kReplica:
        ++fetched;
        decision.bytes_moved += input.shards.bytes[shard];
        break;
      case ShardSource::kInitial: ++initial; break;
    }
    decision.owned[lane].push_back(std::move(source));
  }
  std::string why =
      fmt::format("{} lanes at {}{}: {} shards kept, {} from own arenas, {} from replicas, {} initial",
                  members.size(), to_string(base), choice.why, kept, from_arena, fetched, initial);
  why += membership_text(input, members, normal.text);
  decision.moved = moves_of(input, members);
  decision.moves_later = std::move(normal.later);
  decision.view = View{input.epoch, input.job.name, base, std::move(members), owners.lane, why};
  return decision;
}

}  // namespace holdfast::daemon
