// Planned changes: all lanes stand before a step K, version K is kept, then the view changes.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/coordinator/machine.h"

namespace holdfast::daemon {

constexpr uint32_t kMostEndAttempts = 3;

// A returned node re-joins, workers change places, and a job that was asked to stop stops, at a step
// boundary of a view whose base is held by enough nodes.
void Coordinator::Machine::watch_returns() {
  if (planned_) return;
  const bool boundary = settled_ && newest_ != view_->base.version;
  // A view in which nothing becomes safe must still be able to end.
  const bool overdue = stopping_since_ms_ >= 0 &&
                       now_ms_ - stopping_since_ms_ >= options_.planned_timeout_ms;
  if (job().state == JobState::kStopping && (boundary || overdue))
    return propose_stop("a stop was requested");
  if (!boundary || now_ms_ < planned_not_before_ms_) return;
  if (newest_.value + 3 >= job().config.steps) return;  // not worth it any more
  // A node that was there when the holders were chosen has no room for more: asking again is no use.
  const bool newcomer = std::any_of(nodes_.begin(), nodes_.end(), [&](const auto& entry) {
    return entry.second.state == NodeState::kUp && !considered_.contains(entry.first);
  });
  if (newcomer && !enough_holders()) return propose_stop("more nodes can hold replicas");
  if (view_->members.size() >= job().config.workers()) return;
  for (const WorkerId& worker : ready_workers())
    if (!lane_of(worker.node, worker.slot))
      return propose_stop(fmt::format("node {} re-joins", worker.node.value));
  const auto lanes = lanes_by_stage(view_->members, job().config.stages);
  if (moves_later_.empty() || moves_proposed_for_ == lanes) return;
  moves_proposed_for_ = lanes;
  propose_stop("workers change places: " + moves_later_);
}

void Coordinator::Machine::propose_stop(const std::string& why) {
  uint64_t step = newest_.value + 2;
  // An owner that was told of a later version gets there too: it would wait for it before K, with
  // blocks that K needs.
  if (captures_.newest_named()) step = std::max(step, captures_.newest_named()->value);
  plan_stop(Step(std::min<uint64_t>(step, job().config.steps)), why);
  send_members(CommandStopAt{epoch_, planned_->step});
}

void Coordinator::Machine::plan_stop(Step step, const std::string& why) {
  planned_ = Planned{step, why, newest_, now_ms_, -1, {}};
}

void Coordinator::Machine::on(const WorkerStopRefused& event) {
  if (!current(event.node, event.session, event.epoch) || phase_ != Phase::kRunning) return;
  if (!planned_ || event.begun < planned_->step) return;
  planned_->stand_ms = -1;
  planned_->step = Step(std::min<uint64_t>(event.begun.value + 2, job().config.steps));
  planned_->stopped.clear();
  send_members(CommandStopAt{epoch_, planned_->step});
}

void Coordinator::Machine::on(const WorkerStopped& event) {
  if (!current(event.node, event.session, event.epoch)) return;
  const auto lane = lane_of(event.node, event.slot);
  if (!lane) return;
  if (phase_ == Phase::kTakingOver) stopped_unheard_[*lane] = event.step;
  if (phase_ == Phase::kRunning) lane_stopped(*lane, event.step);
}

void Coordinator::Machine::lane_stopped(uint32_t lane, Step step) {
  last_progress_ms_ = now_ms_;
  newest_ = std::max(newest_, Version(step.value));
  if (step.value >= job().config.steps && (!planned_ || planned_->step < step))
    plan_stop(step, "the job is done");
  if (!planned_ || step != planned_->step) {
    // For a change that was given up, or that an earlier coordinator process wanted.
    if (step.value < job().config.steps) {
      CommandStopAt instead{epoch_, std::nullopt};
      if (planned_) instead.step = planned_->step;
      send(view_->members[lane].worker.node, instead);
    }
    return;
  }
  planned_->stopped.insert(lane);
  stopped_by_all();
}

void Coordinator::Machine::stopped_by_all() {
  if (planned_->stopped.size() < view_->members.size()) return;
  if (planned_->stand_ms < 0) planned_->stand_ms = now_ms_;
  const Version version(planned_->step.value);
  newest_ = std::max(newest_, version);
  const bool kept = !wants_captures() || (job().safe.version == version && settled_);
  if (!kept) {
    if (captures_.is_under_way(version)) return;
    capture(captures_.name_now(version));
    return;
  }
  if (version.value >= job().config.steps) return finish_job(JobState::kDone, "all steps are done");
  if (job().state == JobState::kStopping)
    return finish_job(JobState::kStopped, fmt::format("stopped at step {}", version.value));
  const std::string why = planned_->why;
  note("planned", fmt::format("all lanes stand before step {}: {}", version.value, why),
       {{"step", std::to_string(version.value)}});
  change_view(why);
}

// All lanes have a while to get to K, and from then on version K has one to be kept.
void Coordinator::Machine::watch_planned() {
  if (!planned_) return;
  const bool stand = planned_->stand_ms >= 0;
  const double steps = stand ? 3 : static_cast<double>(planned_->step.value) -
                                       static_cast<double>(planned_->newest.value) + 3;
  const int64_t limit_ms = patience_ms(options_.planned_timeout_ms, steps) +
                           (stand && wants_captures() ? capture_ms() : 0);
  if (now_ms_ - (stand ? planned_->stand_ms : planned_->since_ms) >= limit_ms)
    give_up_planned(fmt::format("{} within {} ms", stand ? "not kept" : "not reached", limit_ms));
  else
    stopped_by_all();
}

void Coordinator::Machine::give_up_planned(const std::string& why) {
  const Planned planned = *planned_;
  note("planned_given_up", fmt::format("{} (before step {}): {}", planned.why, planned.step.value, why));
  planned_.reset();
  moves_proposed_for_.clear();
  if (planned.step.value >= job().config.steps) {
    // The last state is what the whole job was for: try with a new view before giving it up.
    if (++end_attempts_ < kMostEndAttempts) return change_view("the last version could not be kept");
    return finish_job(JobState::kDone, "all steps are done; the last version could not be kept");
  }
  if (job().state == JobState::kStopping)
    return finish_job(JobState::kStopped, fmt::format("stopped at {}", to_string(job().safe)));
  // Not again at once, and less and less often: all lanes may have stood for nothing.
  planned_not_before_ms_ = now_ms_ + (options_.bench_ms << std::min(planned_given_up_++, 6U));
  send_members(CommandStopAt{epoch_, std::nullopt});
}

}  // namespace holdfast::daemon
