// What went wrong in a view, and who stays out of the next ones for it.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/coordinator/machine.h"
#include "daemon/coordinator/room.h"

namespace holdfast::daemon {

constexpr uint32_t kMostDoublings = 5;

void Coordinator::Machine::on(const WorkerRestoreFailed& event) {
  if (!current(event.node, event.session, event.epoch)) return;
  if (phase_ != Phase::kRestoring) return;
  note("restore_failed",
       event.shards.empty()
           ? fmt::format("node {}: {}", event.node.value, event.error.to_string())
           : fmt::format("{} shards could not be had from node {}: {}", event.shards.size(),
                         event.from.value, event.error.to_string()),
       {{"node", event.node.value}, {"from", event.from.value}});
  // That says nothing of the copies: what is bad there, the next NodeQuiesced of that node does not
  // name any more. A pair that fails twice loses the member.
  const bool first =
      !event.shards.empty() && unreached_.emplace(event.node, event.from).second;
  if (!first) blamed_.insert({event.node, event.slot});
  change_view(fmt::format("node {} could not restore: {}", event.node.value, event.error.message));
}

void Coordinator::Machine::on(const WorkerCommBroken& event) {
  if (!current(event.node, event.session, event.epoch)) return;
  const auto lane = lane_of(event.node, event.slot);
  if (!lane) return;
  const std::string why =
      fmt::format("a collective failed on node {}: {}", event.node.value, event.error.message);
  if (phase_ == Phase::kTakingOver) return change_view(why);
  if (phase_ != Phase::kRunning) return;
  broken_lanes_.insert(*lane);
  if (broken_since_ms_ < 0) {
    broken_since_ms_ = now_ms_;
    broken_why_ = why;
  }
  watch_suspects();
}

void Coordinator::Machine::on(const WorkerFatal& event) {
  if (!present(event.node, event.session) || !active_) return;
  if (event.error.code == ErrorCode::kCommAborted) return;
  if (event.epoch != Epoch{} && event.epoch != epoch_) {
    ++counters_.events_fenced;  // its end is told apart
    return;
  }
  const std::string why = fmt::format("node {}: {}", event.node.value, event.error.to_string());
  if (view_ && event.epoch == view_->epoch && lane_of(event.node, event.slot))
    return finish_job(JobState::kFailed, why);
  // It could not open the job, or leaves for what is its own alone. The others can do without it.
  const WorkerId worker{event.node, event.slot};
  unable_[worker] = why;
  bench(worker, why);
  // Before the first step nobody knows whether the job fits anywhere.
  if (event.error.code == ErrorCode::kDeviceMemory && !made_a_step_) {
    short_of_memory_.insert(worker);
    if (all_of_workers([&](const WorkerId& id) { return short_of_memory_.contains(id); }))
      return finish_job(JobState::kFailed, why);
  }
  if (phase_ == Phase::kGathering) consider_deciding();
}

// Longer each time, until it has a part in a step.
void Coordinator::Machine::bench(const WorkerId& worker, const std::string& why) {
  if (benched_until_ms_[worker] > now_ms_) return;
  const int64_t ms = options_.bench_ms << std::min(benched_before_[worker]++, kMostDoublings);
  benched_until_ms_[worker] = now_ms_ + ms;
  note("kept_out", fmt::format("worker {} of node {} stays out for {} ms: {}", worker.slot,
                               worker.node.value, ms, why),
       {{"node", worker.node.value}});
}

// A node that came after the job was submitted may have too small an arena for it: with a worker of its
// own captures may never be whole. The others do without it while there are enough of them. Replicas it
// holds as far as they fit.
void Coordinator::Machine::look_for_room(const NodeStatus& node) {
  const bool was_cramped = cramped_.erase(node.node) != 0;
  if (!wants_captures()) return;
  const Status room = check_room(job().config, shards_, node);
  if (room) return;
  cramped_[node.node] = room.error().message;
  if (!was_cramped)
    note("kept_out", fmt::format("the workers of node {} stay out of new views while others suffice: {}", node.node.value,
                                 room.error().message),
         {{"node", node.node.value}});
}

// Why one of those that are there takes no part; empty: all can.
std::string Coordinator::Machine::why_unable() const {
  for (const auto& [worker, why] : unable_)
    if (is_up(worker.node)) return why;
  for (const auto& [worker, until_ms] : benched_until_ms_)
    if (is_up(worker.node) && until_ms > now_ms_)
      return fmt::format("worker {} of node {} stays out for another {} s", worker.slot,
                         worker.node.value, (until_ms - now_ms_ + 999) / 1000);
  return "";
}

// Of every worker that a node that is up may have; false when there is none.
bool Coordinator::Machine::all_of_workers(
    const std::function<bool(const WorkerId&)>& holds) const {
  bool somebody = false;
  for (const auto& [id, node] : nodes_) {
    if (node.state != NodeState::kUp) continue;
    for (uint32_t slot = 0; slot < node.slots; ++slot)
      if (!holds({id, slot})) return false;
    somebody = true;
  }
  return somebody;
}

// Of the workers that may open a new job, none could.
bool Coordinator::Machine::nobody_can_open() const {
  return job().state == JobState::kStarting &&
         all_of_workers([&](const WorkerId& id) { return unable_.contains(id); });
}

// A view ends without a step. Who keeps failing such views stays out for a while: members that died,
// were late or could not restore. When collectives failed and nobody is to blame, two members cannot
// reach each other, and one must go: the highest lane that said so.
void Coordinator::Machine::count_failed_view() {
  std::set<WorkerId> failed;
  for (uint32_t lane = 0; lane < view_->members.size(); ++lane) {
    const WorkerId& id = view_->members[lane].worker;
    const NodeStatus& node = nodes_[id.node];
    const bool dead = node.state != NodeState::kUp ||
                      std::any_of(node.workers.begin(), node.workers.end(), [&](const auto& w) {
                        return w.slot == id.slot && !w.alive;
                      });
    const bool late = phase_ == Phase::kRestoring && !restored_.contains(lane) &&
                      now_ms_ - phase_since_ms_ >= restore_limit_ms_;
    if (dead || late || blamed_.contains(id)) failed.insert(id);
  }
  if (failed.empty() && !broken_lanes_.empty())
    failed.insert(view_->members[*broken_lanes_.rbegin()].worker);
  for (const WorkerId& id : failed) {
    const uint32_t views = ++failed_views_[id];
    if (views >= options_.view_failures_before_bench)
      bench(id, fmt::format("{} views in a row failed by it", views));
  }
}

}  // namespace holdfast::daemon
