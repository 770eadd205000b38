// A coordinator process that is new to a view that runs, and nodes that are back in one.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/coordinator/machine.h"

namespace holdfast::daemon {

using train::WorkerPhase;

void Coordinator::Machine::take_over() {
  const std::vector<View>& history = job().history;
  if (phase_ != Phase::kTakingOver) {
    enter(Phase::kTakingOver);
    for (const Member& m : history.empty() ? std::vector<Member>{} : history.back().members)
      expected_.insert(m.worker.node);
    const bool ran = job().state == JobState::kRunning || job().state == JobState::kStopping;
    if (ran && !history.empty() && history.back().epoch == epoch_) {
      view_ = history.back();
      newest_ = std::max(view_->base.version, job().safe.version);
      captures_.open(static_cast<uint32_t>(view_->members.size()), job().config.snapshot.every);
    }
    return;
  }
  if (taken_over_.size() < view_->members.size()) return;
  note("taken_over", fmt::format("all {} lanes of epoch {} train on", taken_over_.size(),
                                 to_string(epoch_)));
  enter(Phase::kRunning);
  taken_over_.clear();
  for (const auto& [id, node] : nodes_) considered_.insert(id);
  if (job().state == JobState::kStopping) stopping_since_ms_ = now_ms_;
  last_progress_ms_ = now_ms_;
  broken_since_ms_ = -1;
  settled_ = !wants_captures() || job().safe == view_->base || job().safe.made == epoch_;
  protected_ = settled_ && enough_holders() && all_are_up();
  arenas_taken_over();
  name_captures();
  for (const auto& [lane, step] : std::exchange(stopped_unheard_, {}))
    if (phase_ == Phase::kRunning) lane_stopped(lane, step);
}

// Its daemon was restarted, or the connection was lost; the worker may have trained on.
void Coordinator::Machine::member_is_back(const NodeStatus& node) {
  std::vector<std::pair<uint32_t, Step>> stopped;
  for (uint32_t lane = 0; lane < view_->members.size(); ++lane) {
    const WorkerId& id = view_->members[lane].worker;
    if (id.node != node.node) continue;
    const auto report =
        std::find_if(node.workers.begin(), node.workers.end(),
                     [&](const WorkerReport& w) { return w.slot == id.slot && w.alive; });
    if (report == node.workers.end() || report->epoch != view_->epoch) {
      change_view(fmt::format("the worker of node {} is gone", node.node.value));
      return;
    }
    switch (report->phase) {
      case WorkerPhase::kIdle:
      case WorkerPhase::kRestoring:
        change_view(fmt::format("node {} missed the start of the view", node.node.value));
        return;
      case WorkerPhase::kBroken:
        change_view(fmt::format("a collective failed on node {}", node.node.value));
        return;
      case WorkerPhase::kStopped:  // said while nobody listened
        stopped.emplace_back(lane, report->step);
        break;
      case WorkerPhase::kRunning:
        break;
    }
    newest_ = std::max(newest_, Version(report->step.value));
    taken_over_.insert(lane);
  }
  if (phase_ == Phase::kTakingOver) {
    for (const auto& [lane, step] : stopped) stopped_unheard_[lane] = step;
    take_over();
    return;
  }
  // What was sent while the connection was down is lost.
  for (const Captures::Named& named : captures_.under_way())
    send(node.node, CommandCapture{epoch_, named.version, named.attempt});
  if (planned_) send(node.node, CommandStopAt{epoch_, planned_->step});
  send(node.node, CommandWatermark{epoch_, job().safe, {}});
  for (const auto& [lane, step] : stopped)
    if (phase_ == Phase::kRunning) lane_stopped(lane, step);
}

}  // namespace holdfast::daemon
