#include "daemon/coordinator/members.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/check.h"
#include "train/model/parameter_layout.h"

namespace holdfast::daemon {
namespace {

std::optional<Coordinate> place_before(const DecideInput& input, const WorkerId& worker) {
  for (const Member& m : input.previous)
    if (m.worker == worker && m.coordinate.pipeline.value < input.job.pipelines &&
        m.coordinate.stage.value < input.job.stages)
      return m.coordinate;
  return std::nullopt;
}

Coordinate lowest_free(const train::LanesByStage& lanes, StageIndex stage) {
  uint32_t pipeline = 0;
  for (const uint32_t taken : lanes[stage.value]) {
    if (taken != pipeline) break;
    ++pipeline;
  }
  return {PipelineIndex(pipeline), stage};
}

template <class Better>
StageIndex stage_by(const train::LanesByStage& lanes, Better better) {
  uint32_t best = 0;
  for (uint32_t s = 1; s < lanes.size(); ++s)
    if (better(lanes[s].size(), lanes[best].size())) best = s;
  return StageIndex(best);
}

void insert(std::vector<Member>& members, Member member) {
  const auto after = std::upper_bound(
      members.begin(), members.end(), member,
      [](const Member& a, const Member& b) { return a.coordinate < b.coordinate; });
  members.insert(after, std::move(member));
}

// The lane of the fullest stages that has most of `stage` at hand; of equals the highest.
Coordinate donor_for(const DecideInput& input, const Holdings& holdings,
                     const std::vector<Member>& members, StageIndex stage) {
  const auto lanes = lanes_by_stage(members, input.job.stages);
  const size_t most = lanes[stage_by(lanes, std::greater<size_t>()).value].size();
  CHECK(most > 1, "fewer workers than stages");
  std::optional<Coordinate> donor;
  uint64_t fewest = 0;
  for (const Member& m : members) {
    if (lanes[m.coordinate.stage.value].size() < most) continue;
    const uint64_t bytes = bytes_to_fetch(input, holdings, input.safe, m.worker, stage);
    if (donor && bytes > fewest) continue;
    donor = m.coordinate;
    fewest = bytes;
  }
  return *donor;
}

std::string list(const std::vector<std::string>& all) {
  std::string text;
  for (const std::string& one : all) text += (text.empty() ? "" : ", ") + one;
  return text;
}

// "node-3", or "node-3.1" for another slot than the first.
std::string name_of(const WorkerId& worker) {
  return worker.slot == 0 ? worker.node.value
                          : fmt::format("{}.{}", worker.node.value, worker.slot);
}

// A pipeline says it all where there is one stage.
std::string place_text(const DecideInput& input, Coordinate coordinate) {
  return input.job.stages == 1 ? fmt::format("pipeline {}", coordinate.pipeline.value)
                               : to_string(coordinate);
}

// Of which no lane of the last view takes part any more.
std::set<uint32_t> emptied_stages(const DecideInput& input, const std::set<WorkerId>& living) {
  std::set<uint32_t> emptied;
  for (const Member& m : input.previous) emptied.insert(m.coordinate.stage.value);
  for (const Member& m : input.previous)
    if (living.contains(m.worker)) emptied.erase(m.coordinate.stage.value);
  if (input.job.stages == 1) emptied.clear();  // all are new
  return emptied;
}

}  // namespace

JobShards shards_of_job(const conf::JobConfig& job) {
  const train::ParameterLayout layout(job.model, job.slices());
  const std::vector<train::StageLayers> split = train::split_layers(job.model, job.stages);
  JobShards shards;
  for (uint32_t flat = 0; flat < layout.shard_count(); ++flat) {
    const ShardId shard = ShardId::unflat(flat, layout.slices());
    shards.bytes.push_back(layout.shard_bytes(shard));
    shards.stage.emplace_back(train::stage_of(split, layout.group(shard.group)));
  }
  return shards;
}

std::vector<Member> choose_members(const DecideInput& input, const Holdings& holdings) {
  CHECK(input.workers.size() >= input.job.stages);
  std::vector<Member> members;
  std::vector<WorkerId> newcomers;
  for (const WorkerId& worker : input.workers) {
    if (const auto before = place_before(input, worker))
      insert(members, {worker, *before, {}});
    else
      newcomers.push_back(worker);
  }
  std::sort(newcomers.begin(), newcomers.end());
  for (const WorkerId& worker : newcomers) {
    if (members.size() == input.job.workers()) break;
    const auto lanes = lanes_by_stage(members, input.job.stages);
    insert(members, {worker, lowest_free(lanes, stage_by(lanes, std::less<size_t>())), {}});
  }
  for (StageIndex stage; stage.value < input.job.stages; stage = stage.next()) {
    const auto lanes = lanes_by_stage(members, input.job.stages);
    if (!lanes[stage.value].empty()) continue;
    const Coordinate donor = donor_for(input, holdings, members, stage);
    members = with_move(std::move(members), donor, lowest_free(lanes, stage));
  }
  return members;
}

std::vector<Member> with_move(std::vector<Member> members, Coordinate from, Coordinate to) {
  const auto at = std::find_if(members.begin(), members.end(),
                               [&](const Member& m) { return m.coordinate == from; });
  CHECK(at != members.end());
  Member member = std::move(*at);
  members.erase(at);
  member.coordinate = to;
  insert(members, std::move(member));
  return members;
}

std::vector<Moved> moves_of(const DecideInput& input, const std::vector<Member>& members) {
  std::vector<Moved> moved;
  for (const Member& m : members)
    if (const auto before = place_before(input, m.worker); before && *before != m.coordinate)
      moved.push_back({m.worker, *before, m.coordinate});
  return moved;
}

train::LanesByStage lanes_by_stage(const std::vector<Member>& members, uint32_t stages) {
  train::LanesByStage lanes(stages);
  for (const Member& m : members)
    lanes[m.coordinate.stage.value].push_back(m.coordinate.pipeline.value);
  return lanes;
}

uint64_t bytes_to_fetch(const DecideInput& input, const Holdings& holdings, const StateVersion& state,
                        const WorkerId& worker, StageIndex stage) {
  uint64_t bytes = 0;
  for (uint32_t shard = 0; shard < input.shards.bytes.size(); ++shard) {
    if (input.shards.stage[shard] != stage) continue;
    const Copies* copies = holdings.find(shard, state);
    const bool here = copies && (copies->buffers.contains(worker) ||
                                 copies->arenas.contains(worker.node));
    if (!here) bytes += input.shards.bytes[shard];
  }
  return bytes;
}

std::string membership_text(const DecideInput& input, const std::vector<Member>& members,
                            const std::string& gain) {
  std::set<WorkerId> living;
  for (const Member& m : members) living.insert(m.worker);
  std::vector<std::string> gone, emptied, moves, missing;
  for (const Member& m : input.previous)
    if (!living.contains(m.worker))
      gone.push_back(fmt::format("{} at {}", name_of(m.worker), place_text(input, m.coordinate)));
  for (const Moved& m : moves_of(input, members))
    moves.push_back(fmt::format("{} from {} to {}", name_of(m.worker), to_string(m.from),
                                to_string(m.to)));
  const auto lanes = lanes_by_stage(members, input.job.stages);
  for (const uint32_t s : emptied_stages(input, living)) emptied.push_back(std::to_string(s));
  for (uint32_t s = 0; s < lanes.size(); ++s)
    if (lanes[s].size() < input.job.pipelines)
      missing.push_back(fmt::format("{} of {} lanes{}", lanes[s].size(), input.job.pipelines,
                                    input.job.stages == 1 ? "" : fmt::format(" of stage {}", s)));
  std::string text;
  if (!gone.empty()) text += "; gone: " + list(gone);
  if (!emptied.empty()) text += "; lost its last lane: stage " + list(emptied);
  if (!moves.empty()) text += "; moves " + list(moves) + (gain.empty() ? "" : ": " + gain);
  if (!missing.empty()) text += "; all micro-batches run on " + list(missing);
  return text;
}

}  // namespace holdfast::daemon
