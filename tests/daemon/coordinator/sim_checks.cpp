// The promises, checked against what really happened.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "tests/daemon/coordinator/sim_cluster.h"
#include "train/schedule/job_plan.h"
#include "train/schedule/planner.h"

namespace holdfast::daemon::sim {

using train::WorkerPhase;

namespace {

double step_time(const conf::JobConfig& job, const train::LanesByStage& lanes) {
  const train::Policy policy = train::policy_of_job(job);
  const auto planned = train::plan_step(train::problem_of_job(job, lanes), policy);
  CHECK(planned.has_value());
  return policy == train::Policy::kStaggered ? planned->timing.period : planned->timing.makespan;
}

}  // namespace

// Every stage has a lane, nobody has two places, and survivors of the last view keep theirs if nothing
// speaks for another.
void SimCluster::check_places(const View& view, const std::vector<Member>& before) {
  std::set<Coordinate> places;
  std::set<WorkerId> workers;
  for (const Member& m : view.members) {
    const Coordinate& at = m.coordinate;
    if (at.pipeline.value >= job_.pipelines || at.stage.value >= job_.stages)
      broke("places: there is no " + to_string(at));
    if (!places.empty() && at <= *places.rbegin()) broke("places: members are not in order");
    places.insert(at);
    if (!workers.insert(m.worker).second) broke("places: a worker has two");
  }
  const auto lanes = lanes_by_stage(view.members, job_.stages);
  for (uint32_t s = 0; s < job_.stages; ++s)
    if (lanes[s].empty()) broke(fmt::format("places: stage {} has no lane", s));
  check_moves(view, before);
}

void SimCluster::check_moves(const View& view, const std::vector<Member>& before) {
  std::set<Coordinate> stay;
  train::LanesByStage without(job_.stages);
  uint32_t moved = 0;
  for (const Member& m : view.members) {
    Coordinate at = m.coordinate;
    for (const Member& b : before)
      if (b.worker == m.worker) at = b.coordinate;
    if (!stay.insert(at).second)
      return broke(fmt::format("places: {} was taken from who had it", to_string(at)));
    moved += at == m.coordinate ? 0 : 1;
  }
  if (moved == 0) return;
  moved_ += moved;
  for (const Coordinate& at : stay) without[at.stage.value].push_back(at.pipeline.value);
  const auto empty = [](const auto& lanes) { return lanes.empty(); };
  if (std::any_of(without.begin(), without.end(), empty)) return;  // it had to be
  const double with = step_time(job_, lanes_by_stage(view.members, job_.stages));
  if (with >= step_time(job_, without))
    broke(fmt::format("places: {} workers moved for nothing", moved));
}

// one-version: when every lane of a view runs, every shard has one owner and all are of one state.
void SimCluster::check_view_started(Epoch epoch) {
  const View& view = announced_.at(epoch);
  std::map<uint32_t, uint32_t> owners;
  std::set<Content> contents;
  for (const Member& m : view.members) {
    const Node& node = *find(m.worker.node);
    if (node.epoch != epoch || !node.worker.alive || node.worker.phase != WorkerPhase::kRunning)
      return;  // not all there yet
    for (const auto& [shard, content] : node.worker.buffers.rbegin()->second) {
      ++owners[shard];
      contents.insert(content);
    }
  }
  if (!started_.insert(epoch).second) return;
  if (owners.size() != view.owner_lane.size()) broke("one-version: a shard has no owner");
  for (const auto& [shard, count] : owners)
    if (count != 1) broke(fmt::format("one-version: shard {} has {} owners", shard, count));
  if (contents.size() != 1)
    broke(fmt::format("one-version: the view of {} begins with {} histories", to_string(view.base),
                      contents.size()));
}

// one-version, as long as a view runs: the newest version that every lane has made is still in a buffer of each,
// however far apart stages are.
void SimCluster::check_common_version(Epoch epoch) {
  std::vector<const Worker*> workers;
  Version common(UINT64_MAX);
  for (const Member& m : announced_.at(epoch).members) {
    const Worker& w = find(m.worker.node)->worker;
    if (!w.alive || w.epoch != epoch || w.buffers.empty()) return;
    if (w.owned.empty()) continue;
    if (w.phase != WorkerPhase::kRunning && w.phase != WorkerPhase::kStopped) return;
    common = std::min(common, w.buffers.rbegin()->first.version);
    workers.push_back(&w);
  }
  const bool ahead = std::any_of(workers.begin(), workers.end(), [&](const Worker* w) {
    return w->buffers.rbegin()->first.version > common;
  });
  for (const Worker* w : workers) {
    if (ahead && !reduced_.contains({epoch, Step(common.value), stage_of(*w)})) ++apart_;
    const auto holds = [&](const auto& held) { return held.first.version == common; };
    if (std::none_of(w->buffers.begin(), w->buffers.end(), holds))
      broke(fmt::format("one-version: a lane has overwritten version {}, which another has just made",
                        common.value));
  }
}

// exactly-once, against what really happened: the line of the final state.
void SimCluster::check_ledger() {
  std::set<Content> final_contents;
  for (const Node& node : nodes_)
    for (const Block& b : node.arena)
      if (b.state == jobs_.begin()->second.safe && !b.damaged) final_contents.insert(b.content);
  if (final_contents.empty()) return broke("no-loss: nobody holds the final state");
  if (final_contents.size() != 1) return broke("the final state is not one");
  Content content = *final_contents.begin();
  // The last version is given up only where it cannot be kept, and that is said.
  const JobRecord& job = jobs_.begin()->second;
  if (job.safe.version.value != options_.steps &&
      job.detail.find("could not be kept") == std::string::npos)
    return broke("progress: done at " + to_string(job.safe));
  for (uint64_t step = job.safe.version.value; step-- > 0;) {
    if (!lineage_.contains(content))
      return broke("one-version: a version came of an aborted reduction");
    const auto [before, made] = lineage_.at(content);
    check_step(Step(step), made);
    content = before;
  }
  if (content != 0) broke("the line of the final state does not begin at the start");
}

// Every stage ran every micro-batch once.
void SimCluster::check_step(Step step, Epoch made) {
  std::map<StageIndex, std::multiset<uint32_t>> ran;
  for (auto it = ledger_.lower_bound({step, 0}); it != ledger_.end() && it->first.first == step;
       ++it) {
    const LedgerRow& row = it->second;
    if (row.made != made)
      broke(fmt::format("exactly-once: step {} was made in {}, the ledger says {}", step.value,
                        to_string(made), to_string(row.made)));
    ran[row.stage].insert(row.micro_batches.begin(), row.micro_batches.end());
  }
  for (StageIndex stage; stage.value < job_.stages; stage = stage.next())
    for (uint32_t j = 0; j < job_.pipelines * job_.micro_batches; ++j)
      if (ran[stage].count(j) != 1)
        broke(fmt::format("exactly-once: micro-batch {} of step {} counted {} times at stage {}", j,
                          step.value, ran[stage].count(j), stage.value));
}

// Plans of a view are made again and again here, by every lane; they depend on little.
std::vector<uint32_t> SimCluster::micro_batches_of(const View& view, uint32_t lane) const {
  using Key = std::tuple<uint32_t, uint32_t, bool, train::LanesByStage>;
  static std::map<Key, train::Plan> plans;
  const auto lanes = lanes_by_stage(view.members, job_.stages);
  const Key key{job_.pipelines, job_.micro_batches, job_.staggered(), lanes};
  auto plan = plans.find(key);
  if (plan == plans.end()) plan = plans.emplace(key, *train::plan_of_job(job_, lanes)).first;
  const uint32_t stage = view.members[lane].coordinate.stage.value;
  uint32_t first = 0;
  for (uint32_t s = 0; s < stage; ++s) first += static_cast<uint32_t>(lanes[s].size());
  std::vector<uint32_t> all;
  for (const MicroBatchIndex j : train::micro_batches_of(plan->second, stage, lane - first))
    all.push_back(j.value);
  return all;
}

}  // namespace holdfast::daemon::sim
