#include "daemon/coordinator/prediction.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "daemon/coordinator/members.h"
#include "train/schedule/job_plan.h"
#include "train/schedule/simulate.h"

namespace holdfast::daemon {
namespace {

struct PlannedStep {
  double units = 0;
  std::map<std::pair<WorkerId, Coordinate>, uint32_t> micro_batches;
};

// The plan that workers and ledger follow, and what it takes step after step.
PlannedStep plan_of(const conf::JobConfig& job, const std::vector<Member>& members) {
  const auto lanes = lanes_by_stage(members, job.stages);
  const auto plan = train::plan_of_job(job, lanes);
  CHECK(plan.has_value(), "{}", plan.error().to_string());
  PlannedStep step;
  const train::Barrier barrier = train::barrier_of(train::policy_of_job(job));
  step.units = train::simulate(train::problem_of_job(job, lanes), *plan, barrier).period;
  uint32_t member = 0;
  for (uint32_t s = 0; s < plan->stages.size(); ++s)
    for (uint32_t lane = 0; lane < plan->stages[s].lanes.size(); ++lane, ++member) {
      const auto run = train::micro_batches_of(*plan, s, lane).size();
      step.micro_batches[{members[member].worker, members[member].coordinate}] =
          static_cast<uint32_t>(run);
    }
  return step;
}

void predict_lanes(const PlannedStep& before, const PlannedStep& after, Prediction& prediction) {
  for (const auto& [lane, run] : after.micro_batches) {
    const auto ran = before.micro_batches.find(lane);
    const uint32_t had = ran == before.micro_batches.end() ? 0 : ran->second;
    if (had != run) prediction.lanes.push_back({lane.first, lane.second, had, run});
  }
  std::sort(prediction.lanes.begin(), prediction.lanes.end(),
            [](const LaneRoute& a, const LaneRoute& b) { return a.coordinate < b.coordinate; });
}

void predict_pace(const ViewAhead& ahead, const PlannedStep& before, const PlannedStep& after,
                  const Measured& measured, Pace& pace) {
  pace.plan_before = before.units;
  pace.plan_after = after.units;
  pace.plan_unit = ahead.job.synthetic ? "ms" : "F of a layer";
  pace.throughput_ratio = before.units / after.units;
  pace.step_seconds_before = measured.step_seconds();
  if (!pace.step_seconds_before || *pace.step_seconds_before <= 0) return;
  const conf::JobConfig& job = ahead.job;
  const double tokens = static_cast<double>(job.pipelines) * job.micro_batches *
                        job.micro_batch_sequences * job.model.context;
  pace.step_seconds_after = *pace.step_seconds_before / pace.throughput_ratio;
  pace.tokens_per_second_before = tokens / *pace.step_seconds_before;
  pace.tokens_per_second_after = tokens / *pace.step_seconds_after;
}

const char* name_of(ShardSource source) {
  switch (source) {
    case ShardSource::kBuffer: return "buffer";
    case ShardSource::kArena: return "arena";
    case ShardSource::kReplica: return "replica";
    case ShardSource::kInitial: return "initial";
  }
  return "";
}

// By lane of the view before: its worker has a lane of the same stage.
std::vector<bool> living_lanes(const ViewAhead& ahead) {
  std::vector<bool> lives;
  for (const Member& last : ahead.before.members)
    lives.push_back(std::any_of(
        ahead.after.members.begin(), ahead.after.members.end(), [&](const Member& m) {
          return m.worker == last.worker && m.coordinate.stage == last.coordinate.stage;
        }));
  return lives;
}

void predict_transfers(const ViewAhead& ahead, Prediction& prediction) {
  const std::vector<bool> lives = living_lanes(ahead);
  std::map<std::tuple<NodeId, ShardSource, NodeId>, std::pair<uint32_t, uint64_t>> transfers;
  for (uint32_t lane = 0; lane < ahead.owned.size(); ++lane) {
    const Member& owner = ahead.after.members[lane];
    for (const SourcedShard& shard : ahead.owned[lane]) {
      const uint64_t bytes = ahead.shards.bytes[shard.shard];
      const uint32_t last = ahead.before.owner_lane[shard.shard];
      if (!lives[last]) {
        ++prediction.orphan_shards;
        prediction.orphan_bytes += bytes;
      }
      if (ahead.before.members[last].worker == owner.worker && shard.source != ShardSource::kReplica) continue;
      const NodeId& from = shard.source == ShardSource::kReplica ? shard.from : owner.worker.node;
      auto& [count, sum] = transfers[{owner.worker.node, shard.source, from}];
      ++count;
      sum += bytes;
    }
  }
  for (const auto& [way, sum] : transfers)
    prediction.transfers.push_back({std::get<0>(way), name_of(std::get<1>(way)), std::get<2>(way),
                                    sum.first, sum.second});
}

std::string views(size_t count) { return fmt::format("{} view{}", count, count == 1 ? "" : "s"); }

Duration median_or(const std::optional<Measured::Median>& measured, double otherwise,
                   const std::string& assumed) {
  if (!measured) return {otherwise, false, "assumed: " + assumed};
  return {measured->seconds, true, "median of " + views(measured->of)};
}

// Of a figure that counts as measured, so much may be assumed.
constexpr double kAssumedToMatter = 0.1;

Duration predict_restore(const RestoreLoad& load, const Measured& measured, const Assumed& assumed) {
  const auto speed = measured.fetch_bytes_per_second();
  const double per_second = speed.value_or(assumed.fetch_bytes_per_second);
  const auto beside = measured.restore_beside(per_second, assumed.load_bytes_per_second);
  Duration restore = median_or(beside, assumed.restore_seconds, "nothing measured yet");
  restore.seconds = *restore.seconds + static_cast<double>(load.fetched_bytes) / per_second +
                    static_cast<double>(load.loaded_bytes) / assumed.load_bytes_per_second;
  if (load.loaded_bytes > 0)
    restore.from += fmt::format(", {:.1f} MB loaded by one lane at {:.0f} GB/s (assumed)",
                                static_cast<double>(load.loaded_bytes) / 1e6,
                                assumed.load_bytes_per_second / 1e9);
  if (load.fetched_bytes > 0)
    restore.from += fmt::format(", and {:.1f} MB by one node at {:.2f} GB/s ({})",
                                static_cast<double>(load.fetched_bytes) / 1e6, per_second / 1e9,
                                speed ? "measured" : "assumed");
  const double transfers = static_cast<double>(load.fetched_bytes) / per_second * (speed ? 0 : 1) +
                           static_cast<double>(load.loaded_bytes) / assumed.load_bytes_per_second;
  restore.measured = restore.measured && transfers < kAssumedToMatter * *restore.seconds;
  return restore;
}

Duration predict_first_step(const Pace& pace, const Measured& measured) {
  if (!pace.step_seconds_after) return {std::nullopt, false, "not known: no step of this view yet"};
  Duration first{pace.step_seconds_after, true, "step measured now, times the plans' ratio"};
  if (const auto beside = measured.first_step_beside()) {
    first.seconds = std::max(0.0, *first.seconds + beside->seconds);
    first.from += fmt::format("; {:+.3f} s as first steps of {}", beside->seconds, views(beside->of));
  }
  return first;
}

}  // namespace

RestoreLoad load_of(const JobShards& shards, const View& view,
                    const std::vector<std::vector<SourcedShard>>& owned) {
  RestoreLoad load;
  std::map<NodeId, uint64_t> in, out, loaded;
  for (uint32_t lane = 0; lane < owned.size(); ++lane) {
    const NodeId& node = view.members[lane].worker.node;
    for (const SourcedShard& shard : owned[lane]) {
      if (shard.source != ShardSource::kReplica && shard.source != ShardSource::kArena) continue;
      const uint64_t bytes = shards.bytes[shard.shard];
      loaded[node] += bytes;
      if (shard.source == ShardSource::kArena) continue;
      in[node] += bytes;
      out[shard.from] += bytes;
      load.moved_bytes += bytes;
    }
  }
  for (const auto* bytes : {&in, &out})
    for (const auto& [node, count] : *bytes)
      load.fetched_bytes = std::max(load.fetched_bytes, count);
  for (const auto& [node, count] : loaded) load.loaded_bytes = std::max(load.loaded_bytes, count);
  return load;
}

Prediction predict(const ViewAhead& ahead, const Measured& measured, const Assumed& assumed) {
  Prediction prediction;
  prediction.base = ahead.after.base;
  prediction.steps_twice = ahead.steps_twice;
  prediction.reason = ahead.after.reason;
  prediction.owner_lane = ahead.after.owner_lane;
  for (const Member& m : ahead.after.members) prediction.workers.push_back(m.worker);
  const auto lanes = lanes_by_stage(ahead.after.members, ahead.job.stages);
  prediction.pipelines = ahead.job.pipelines;
  for (const auto& of_stage : lanes)
    prediction.pipelines = std::min(prediction.pipelines, static_cast<uint32_t>(of_stage.size()));
  for (const Member& m : ahead.after.members)
    for (const Member& b : ahead.before.members)
      if (b.worker == m.worker && b.coordinate != m.coordinate)
        prediction.moves.push_back({m.worker, b.coordinate, m.coordinate});

  const PlannedStep before = plan_of(ahead.job, ahead.before.members);
  const PlannedStep after = plan_of(ahead.job, ahead.after.members);
  predict_lanes(before, after, prediction);
  predict_pace(ahead, before, after, measured, prediction.pace);
  predict_transfers(ahead, prediction);

  const RestoreLoad load = load_of(ahead.shards, ahead.after, ahead.owned);
  prediction.bytes_moved = load.moved_bytes;
  RecoveryTime& time = prediction.recovery;
  time.noticed = median_or(measured.noticed(), assumed.noticed_seconds,
                           "the longest wait for the cause of a broken collective");
  time.quiesce = median_or(measured.quiesce(), assumed.quiesce_seconds, "nothing measured yet");
  time.restore = predict_restore(load, measured, assumed);
  time.connect = median_or(measured.connect(), assumed.connect_seconds, "nothing measured yet");
  time.first_step = predict_first_step(prediction.pace, measured);
  for (const Duration* part :
       {&time.noticed, &time.quiesce, &time.restore, &time.connect, &time.first_step})
    time.total += part->seconds.value_or(0);
  return prediction;
}

}  // namespace holdfast::daemon
