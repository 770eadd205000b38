#include "daemon/coordinator/owners.h"

#include <algorithm>
#include <optional>

#include "base/check.h"

namespace holdfast::daemon {
namespace {

// A lane that adopts orphans may own this much more than an even share before moving bytes is
// preferred to keeping them local.
constexpr double kLocalOverload = 1.5;

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

// The lanes of one stage, and what they may own evenly.
struct StageLanes {
  std::vector<uint32_t> lanes;
  uint64_t even_share = 0;
};

class Choosing {
 public:
  Choosing(const DecideInput& input, const Holdings& holdings, const StateVersion& base,
           const std::vector<Member>& members)
      : input_(input), holdings_(holdings), base_(base), members_(members),
        stages_(input.job.stages),
        owners_{std::vector<uint32_t>(input.shards.bytes.size()),
                std::vector<uint64_t>(members.size(), 0)} {
    for (uint32_t lane = 0; lane < members.size(); ++lane)
      for (uint32_t s = 0; s < stages_.size(); ++s)
        if (input.test_ignore_stage || members[lane].coordinate.stage.value == s)
          stages_[s].lanes.push_back(lane);
    for (uint32_t shard = 0; shard < input.shards.bytes.size(); ++shard)
      stages_[input.shards.stage[shard].value].even_share += input.shards.bytes[shard];
    for (StageLanes& stage : stages_) stage.even_share = stage.even_share / stage.lanes.size() + 1;
  }

  Owners run() {
    std::vector<uint32_t> orphans;
    for (uint32_t shard = 0; shard < input_.shards.bytes.size(); ++shard) {
      if (home_lives(shard)) {
        assign(shard);
      } else {
        orphans.push_back(shard);
      }
    }
    for (const uint32_t shard : orphans) assign(shard);  // they see the others' load
    return std::move(owners_);
  }

 private:
  bool initial() const { return base_.version == Version(0); }
  bool at_home(uint32_t shard, uint32_t lane) const {
    const uint32_t home = (shard % input_.job.slices()) % input_.job.pipelines;
    return members_[lane].coordinate.pipeline.value == home;
  }
  const StageLanes& stage(uint32_t shard) const {
    return stages_[input_.shards.stage[shard].value];
  }
  bool home_lives(uint32_t shard) const {
    const Copies* copies = holdings_.find(shard, base_);
    const auto& lanes = stage(shard).lanes;
    return std::any_of(lanes.begin(), lanes.end(), [&](uint32_t lane) {
      return at_home(shard, lane) && can_own(copies, members_[lane], initial());
    });
  }
  void assign(uint32_t shard) {
    const uint32_t lane = choose(shard, holdings_.find(shard, base_));
    owners_.lane[shard] = lane;
    owners_.bytes[lane] += input_.shards.bytes[shard];
  }
  uint32_t choose(uint32_t shard, const Copies* copies) const {
    const StageLanes& group = stage(shard);
    const bool reached = std::any_of(group.lanes.begin(), group.lanes.end(), [&](uint32_t lane) {
      return can_reach(input_, copies, members_[lane], initial());
    });
    std::optional<uint32_t> local, least;
    for (const uint32_t lane : group.lanes) {
      const Member& member = members_[lane];
      if (!can_own(copies, member, initial())) continue;
      if (reached && !can_reach(input_, copies, member, initial())) continue;
      if (at_home(shard, lane)) return lane;
      if (!least || owners_.bytes[lane] < owners_.bytes[*least]) least = lane;
      if (has_locally(copies, member) && (!local || owners_.bytes[lane] < owners_.bytes[*local]))
        local = lane;
    }
    CHECK(least.has_value());
    const auto limit =
        static_cast<uint64_t>(kLocalOverload * static_cast<double>(group.even_share));
    return local && owners_.bytes[*local] + input_.shards.bytes[shard] <= limit ? *local : *least;
  }

  const DecideInput& input_;
  const Holdings& holdings_;
  const StateVersion base_;
  const std::vector<Member>& members_;
  std::vector<StageLanes> stages_;
  Owners owners_;
};

}  // namespace

Owners choose_owners(const DecideInput& input, const Holdings& holdings, const StateVersion& base,
                     const std::vector<Member>& members) {
  return Choosing(input, holdings, base, members).run();
}

}  // namespace holdfast::daemon
