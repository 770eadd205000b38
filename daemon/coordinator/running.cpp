// Watching a view that runs: captures, suspicions, returns, planned changes.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/coordinator/machine.h"

namespace holdfast::daemon {

constexpr uint32_t kMostEndAttempts = 3;

// ---- a new coordinator process ------------------------------------------------------------------

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
  protected_ = settled_ && enough_holders();
  name_captures();
  for (const auto& [lane, step] : std::exchange(stopped_unheard_, {}))
    if (phase_ == Phase::kRunning) lane_stopped(lane, step);
}

void Coordinator::Machine::on(const Tick&) {
  switch (phase_) {
    case Phase::kIdle:
      return;
    case Phase::kGathering:
      consider_deciding();
      return;
    case Phase::kRestoring:
      if (now_ms_ - phase_since_ms_ >= options_.restore_timeout_ms)
        change_view(fmt::format("{} of {} workers were restored within {} ms", restored_.size(),
                                view_->members.size(), options_.restore_timeout_ms));
      return;
    case Phase::kRunning:
      watch();
      return;
    case Phase::kTakingOver:
      if (!view_) {
        change_view("the coordinator was started anew in the middle of a view change");
      } else if (now_ms_ - phase_since_ms_ >= options_.daemon_grace_ms) {
        change_view(fmt::format("{} of {} lanes reported within {} ms after the coordinator was "
                                "started anew",
                                taken_over_.size(), view_->members.size(),
                                options_.daemon_grace_ms));
      }
      return;
  }
}

// ---- steps --------------------------------------------------------------------------------------

void Coordinator::Machine::on(const WorkerStepDone& event) {
  if (!active_ || !ledger_) return;
  // Also of the view that is ending: the version exists, and its row comes before Quiesced.
  if (!present(event.node, event.session)) return;
  if (!view_ || event.step.epoch != view_->epoch) {
    ++counters_.events_fenced;
    return;
  }
  if (event.step.step.value + 1 == view_->base.version.value) {  // evaluated now, made before
    if (event.step.held_out_loss) job().held_out_loss = event.step.held_out_loss;
    return;
  }
  if (!ledger_->add({event.node, event.slot}, event.step)) return;
  const Version made(event.step.step.value + 1);
  if (phase_ != Phase::kRunning && phase_ != Phase::kTakingOver) return;
  last_progress_ms_ = now_ms_;
  if (phase_ == Phase::kRunning && ledger_->complete(event.step.step) &&
      event.step.step.value == view_->base.version.value)
    note("first_step", fmt::format("step {} is the first of epoch {}", event.step.step.value,
                                   to_string(epoch_)),
         {{"step", std::to_string(event.step.step.value)},
          {"steps_twice", std::to_string(steps_back_)}});
  if (made <= newest_) return;
  newest_ = made;
  last_step_ = event.step;
  job().steps_done = made.value;
  job().train_loss = event.step.loss;
  if (event.step.held_out_loss) job().held_out_loss = event.step.held_out_loss;
  name_captures();
}

// ---- captures -----------------------------------------------------------------------------------

void Coordinator::Machine::capture(Version version) {
  ++counters_.captures_named;
  send_members(CommandCapture{epoch_, version});
}

void Coordinator::Machine::name_captures() {
  if (phase_ != Phase::kRunning || !wants_captures()) return;
  const uint64_t last = planned_ ? planned_->step.value : job().config.steps;
  while (const auto version = captures_.name(now_ms_, newest_, Version(last))) capture(*version);
}

void Coordinator::Machine::on(const WorkerReplicated& event) {
  if (!current(event.node, event.session, event.epoch) || phase_ != Phase::kRunning) return;
  const auto lane = lane_of(event.node, event.slot);
  if (!lane) return;
  const bool base = event.state == view_->base;
  if (!base && event.state.made != epoch_) return;
  for (const NodeId& holder : view_->members[*lane].holders)
    if (std::find(event.holders.begin(), event.holders.end(), holder) == event.holders.end())
      return;
  std::vector<Version> abandoned;
  if (captures_.replicated(*lane, event.state.version, abandoned))
    became_safe(event.state.version, abandoned);
}

void Coordinator::Machine::became_safe(Version version, const std::vector<Version>& abandoned) {
  JobRecord& record = job();
  record.safe = version == view_->base.version ? view_->base : StateVersion{version, epoch_};
  ++counters_.captures_safe;
  uint64_t inferred = 0;
  for (LedgerRow& row : ledger_->seal(version, inferred)) {
    ++counters_.rows_sealed;
    out_.records.push_back(SealRow{*active_, std::move(row)});
  }
  counters_.rows_inferred += inferred;
  store_job(false);
  for (const auto& [id, node] : nodes_) send(id, CommandWatermark{epoch_, record.safe, abandoned});
  settled_ = true;
  for (const Member& m : view_->members) failed_views_.erase(m.worker);
  consider_protected();
  name_captures();
  if (planned_) stopped_by_all();
}

// min(r, other live domains) holders for every member, as section 8 of the design asks; nodes may have
// come after the view was decided.
bool Coordinator::Machine::enough_holders() const {
  if (!wants_captures()) return true;
  for (const Member& m : view_->members) {
    std::set<std::string> others;
    for (const auto& [id, node] : nodes_)
      if (node.state == NodeState::kUp) others.insert(node.failure_domain);
    others.erase(nodes_.at(m.worker.node).failure_domain);
    if (m.holders.size() < std::min<size_t>(job().config.snapshot.replicas, others.size()))
      return false;
  }
  return true;
}

void Coordinator::Machine::consider_protected() {
  if (protected_ || !settled_ || !enough_holders()) return;
  protected_ = true;
  note("protected", fmt::format("{} is held by enough nodes", to_string(job().safe)),
       {{"version", std::to_string(job().safe.version.value)}});
}

void Coordinator::Machine::on(const WorkerCaptureMissed& event) {
  if (!current(event.node, event.session, event.epoch) || phase_ != Phase::kRunning) return;
  if (!captures_.missed(event.version)) return;
  ++counters_.captures_abandoned;
  note("capture_missed", fmt::format("version {} on node {}: {}", event.version.value,
                                     event.node.value, event.why),
       {{"node", event.node.value}, {"version", std::to_string(event.version.value)}});
  for (const auto& [id, node] : nodes_)
    send(id, CommandWatermark{epoch_, job().safe, {event.version}});
  name_captures();
}

void Coordinator::Machine::watch_captures() {
  for (const Version version : captures_.timed_out(now_ms_)) {
    (void)captures_.missed(version);
    ++counters_.captures_abandoned;
    note("capture_missed", fmt::format("version {} was not replicated within {} ms", version.value,
                                       options_.capture_timeout_ms));
    for (const auto& [id, node] : nodes_)
      send(id, CommandWatermark{epoch_, job().safe, {version}});
  }
  name_captures();
}

// ---- suspicions ---------------------------------------------------------------------------------

void Coordinator::Machine::watch_suspects() {
  const double step_ms = last_step_ ? last_step_->seconds * 1000 : 0;
  const auto patience = [&](int64_t least_ms, double steps) {
    return std::max(least_ms, static_cast<int64_t>(step_ms * steps));
  };
  const int64_t still_ms = now_ms_ - last_progress_ms_;
  const bool standing = planned_ && !planned_->stopped.empty();
  for (const Member& m : view_->members) {
    const NodeStatus& node = nodes_[m.worker.node];
    if (node.state == NodeState::kUp) continue;
    const std::string who = fmt::format("node {} is gone: {}", m.worker.node.value, node.why);
    if (broken_since_ms_ >= 0) return change_view(who + "; " + broken_why_);
    if (now_ms_ - node.since_ms >= options_.daemon_grace_ms) return change_view(who);
    if (!standing && still_ms >= patience(options_.steps_stopped_ms, 5) &&
        now_ms_ - node.since_ms >= options_.steps_stopped_ms)
      return change_view(who + "; and steps have stopped");
  }
  if (broken_since_ms_ >= 0 && now_ms_ - broken_since_ms_ >= options_.cause_wait_ms)
    return change_view(broken_why_);
  if (!standing && still_ms >= patience(options_.stall_timeout_ms, 20))
    change_view(fmt::format("no step was done for {} ms", still_ms));
}

void Coordinator::Machine::watch() {
  watch_suspects();
  if (phase_ != Phase::kRunning) return;
  consider_protected();
  watch_captures();
  watch_returns();
  if (phase_ == Phase::kRunning && planned_ &&
      now_ms_ - planned_->since_ms >= options_.planned_timeout_ms)
    give_up_planned(fmt::format("not reached within {} ms", options_.planned_timeout_ms));
  else if (phase_ == Phase::kRunning && planned_)
    stopped_by_all();
}

// ---- planned changes ----------------------------------------------------------------------------

// A returned node re-joins, and a job that was asked to stop stops, at a step boundary of a view whose
// base is held by enough nodes.
void Coordinator::Machine::watch_returns() {
  if (planned_) return;
  const bool boundary = settled_ && newest_ != view_->base.version;
  // A view in which nothing becomes safe must still be able to end.
  const bool overdue = stopping_since_ms_ >= 0 &&
                       now_ms_ - stopping_since_ms_ >= options_.planned_timeout_ms;
  if (job().state == JobState::kStopping && (boundary || overdue))
    return propose_stop("a stop was requested");
  if (!boundary) return;
  if (newest_.value + 3 >= job().config.steps) return;  // not worth it any more
  // A node that was there when the holders were chosen has no room for more: asking again is no use.
  const bool newcomer = std::any_of(nodes_.begin(), nodes_.end(), [&](const auto& entry) {
    return entry.second.state == NodeState::kUp && !considered_.contains(entry.first);
  });
  if (newcomer && !enough_holders()) return propose_stop("more nodes can hold replicas");
  if (view_->members.size() >= job().config.pipelines) return;
  for (const WorkerId& worker : ready_workers())
    if (!lane_of(worker.node, worker.slot))
      return propose_stop(fmt::format("node {} re-joins", worker.node.value));
}

void Coordinator::Machine::propose_stop(const std::string& why) {
  const uint64_t step = std::min<uint64_t>(newest_.value + 2, job().config.steps);
  planned_ = Planned{Step(step), why, now_ms_, {}};
  send_members(CommandStopAt{epoch_, planned_->step});
}

void Coordinator::Machine::on(const WorkerStopRefused& event) {
  if (!current(event.node, event.session, event.epoch) || phase_ != Phase::kRunning) return;
  if (!planned_ || event.begun < planned_->step) return;
  planned_->step = Step(std::min<uint64_t>(event.begun.value + 2, job().config.steps));
  planned_->stopped.clear();
  send_members(CommandStopAt{epoch_, planned_->step});
}

void Coordinator::Machine::on(const WorkerStopped& event) {
  if (!current(event.node, event.session, event.epoch) || phase_ != Phase::kRunning) return;
  if (const auto lane = lane_of(event.node, event.slot)) lane_stopped(*lane, event.step);
}

void Coordinator::Machine::lane_stopped(uint32_t lane, Step step) {
  last_progress_ms_ = now_ms_;
  if (step.value >= job().config.steps && (!planned_ || planned_->step < step))
    planned_ = Planned{step, "the job is done", now_ms_, {}};
  if (!planned_ || step != planned_->step) return;
  planned_->stopped.insert(lane);
  stopped_by_all();
}

void Coordinator::Machine::stopped_by_all() {
  if (planned_->stopped.size() < view_->members.size()) return;
  const Version version(planned_->step.value);
  newest_ = std::max(newest_, version);
  const bool kept = !wants_captures() || (job().safe.version == version && settled_);
  if (!kept) {
    if (captures_.is_under_way(version)) return;
    captures_.name_now(now_ms_, version);
    capture(version);
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

void Coordinator::Machine::give_up_planned(const std::string& why) {
  const Planned planned = *planned_;
  note("planned_given_up", fmt::format("{} (before step {}): {}", planned.why, planned.step.value, why));
  planned_.reset();
  if (planned.step.value >= job().config.steps) {
    // The last state is what the whole job was for: try with a new view before giving it up.
    if (++end_attempts_ < kMostEndAttempts) return change_view("the last version could not be kept");
    return finish_job(JobState::kDone, "all steps are done; the last version could not be kept");
  }
  if (job().state == JobState::kStopping)
    return finish_job(JobState::kStopped, fmt::format("stopped at {}", to_string(job().safe)));
  for (const Member& m : view_->members) benched_until_ms_.erase(m.worker);
  for (const WorkerId& worker : ready_workers())  // not again at once
    benched_until_ms_[worker] = now_ms_ + options_.bench_ms;
  send_members(CommandStopAt{epoch_, std::nullopt});
}

}  // namespace holdfast::daemon
