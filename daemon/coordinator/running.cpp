// Watching a view that runs: steps, captures, suspicions.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/coordinator/machine.h"

namespace holdfast::daemon {
namespace {

constexpr size_t kStepsOfPace = 6;  // the first does not count

double seconds_of(const train::RestoreTimes& t) {
  return t.room_seconds + t.load_seconds + t.connect_seconds + t.weights_seconds;
}

std::string bytes_text(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? fmt::format("{:.1f} MB", value / 1e6)
                               : fmt::format("{:.1f} GB", value / 1e9);
}

}  // namespace

void Coordinator::Machine::on(const Tick&) {
  switch (phase_) {
    case Phase::kIdle:
      return;
    case Phase::kGathering:
      consider_deciding();
      return;
    case Phase::kRestoring:
      if (now_ms_ - phase_since_ms_ >= restore_limit_ms_)
        change_view(fmt::format("{} of {} workers were restored within {} ms", restored_.size(),
                                view_->members.size(), restore_limit_ms_));
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

// ---- the way to the first step ------------------------------------------------------------------

// Of the lane that took longest: the others waited for it.
void Coordinator::Machine::on(const WorkerRunning& event) {
  if (!current(event.node, event.session, event.epoch) || phase_ != Phase::kRunning) return;
  const auto lane = lane_of(event.node, event.slot);
  if (!lane || !started_.emplace(*lane, event.times).second) return;
  if (started_.size() < view_->members.size()) return;
  const auto slowest =
      std::max_element(started_.begin(), started_.end(), [](const auto& a, const auto& b) {
        return seconds_of(a.second) < seconds_of(b.second);
      });
  const train::RestoreTimes& t = slowest->second;
  if (recovery_) recovery_->connect_seconds = t.connect_seconds + t.weights_seconds;
  const std::string& node = view_->members[slowest->first].worker.node.value;
  const auto seconds = [](double value) { return fmt::format("{:.3f}", value); };
  note("restored",
       fmt::format("node {} took longest of {} lanes: {} in {:.2f} s (room {:.2f} s, verify and load "
                   "{:.2f} s, connect {:.2f} s, weights {:.2f} s)",
                   node, started_.size(), bytes_text(t.bytes), seconds_of(t), t.room_seconds,
                   t.load_seconds, t.connect_seconds, t.weights_seconds),
       {{"node", node},
        {"bytes", std::to_string(t.bytes)},
        {"seconds", seconds(seconds_of(t))},
        {"room_seconds", seconds(t.room_seconds)},
        {"load_seconds", seconds(t.load_seconds)},
        {"connect_seconds", seconds(t.connect_seconds)},
        {"weights_seconds", seconds(t.weights_seconds)}});
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
  made_a_step_ = true;
  const Step step = event.step.step;
  const bool by_all = ledger_->complete(step);
  if (by_all && !wants_captures()) seal(Version(step.value));
  if (phase_ != Phase::kRunning && phase_ != Phase::kTakingOver) return;
  last_progress_ms_ = now_ms_;
  if (by_all && step.value == view_->base.version.value) {
    for (const Member& m : view_->members) {
      failed_views_.erase(m.worker);
      benched_before_.erase(m.worker);
    }
    note("first_step", fmt::format("step {} is the first of epoch {}", step.value, to_string(epoch_)),
         {{"step", std::to_string(step.value)}, {"steps_twice", std::to_string(steps_back_)}});
    recovery_ends();
  }
  note_loss(event.step);
  if (last_step_ && step <= last_step_->step) return;
  measured_.step_took(event.step.seconds);
  if (measured_.steps() >= kStepsOfPace) note_pace();
  newest_ = std::max(newest_, Version(step.value + 1));
  last_step_ = event.step;
  job().steps_done = newest_.value;
  name_captures();
}

// With stages that do not wait for each other it comes from the last, perhaps after others' next step.
void Coordinator::Machine::note_loss(const train::StepDone& done) {
  if (!done.tells_loss() || (loss_of_ && done.step <= *loss_of_)) return;
  loss_of_ = done.step;
  job().train_loss = done.loss;
  if (done.held_out_loss) job().held_out_loss = done.held_out_loss;
}

// ---- captures -----------------------------------------------------------------------------------

void Coordinator::Machine::capture(const Captures::Named& named) {
  ++counters_.captures_named;
  send_members(CommandCapture{epoch_, named.version, named.attempt});
}

void Coordinator::Machine::abandon(Version version) {
  ++counters_.captures_abandoned;
  for (const auto& [id, node] : nodes_) send(id, CommandWatermark{epoch_, job().safe, {version}});
  arenas_watermark({version});
}

void Coordinator::Machine::name_captures() {
  if (phase_ != Phase::kRunning || !wants_captures()) return;
  const uint64_t last = planned_ ? planned_->step.value : job().config.steps;
  while (const auto version = captures_.name(newest_, Version(last))) capture(*version);
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
  // What an abandoned capture left may be free by now.
  if (captures_.is_under_way({event.state.version, event.attempt}))
    arenas_replicated(*lane, event.state);
  std::vector<Version> abandoned;
  if (captures_.replicated(*lane, {event.state.version, event.attempt}, abandoned))
    became_safe(event.state.version, abandoned);
}

void Coordinator::Machine::became_safe(Version version, const std::vector<Version>& abandoned) {
  JobRecord& record = job();
  record.safe = version == view_->base.version ? view_->base : StateVersion{version, epoch_};
  ++counters_.captures_safe;
  seal(version);
  store_job(false);
  for (const auto& [id, node] : nodes_) send(id, CommandWatermark{epoch_, record.safe, abandoned});
  arenas_watermark(abandoned);
  arenas_known_ = true;
  settled_ = true;
  consider_protected();
  name_captures();
  if (planned_) stopped_by_all();
}

// Rows of every step below `version`.
void Coordinator::Machine::seal(Version version) {
  if (version <= ledger_->sealed_up_to()) return;
  uint64_t inferred = 0;
  for (LedgerRow& row : ledger_->seal(version, inferred)) {
    ++counters_.rows_sealed;
    out_.records.push_back(SealRow{*active_, std::move(row)});
  }
  counters_.rows_inferred += inferred;
  if (!wants_captures()) store_job(false);  // how far it is sealed
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

bool Coordinator::Machine::all_are_up() const {
  const auto up = [&](const NodeId& id) { return is_up(id); };
  return std::all_of(view_->members.begin(), view_->members.end(), [&](const Member& m) {
    return up(m.worker.node) && std::all_of(m.holders.begin(), m.holders.end(), up);
  });
}

void Coordinator::Machine::consider_protected() {
  if (protected_ || !settled_ || !enough_holders() || !all_are_up()) return;
  protected_ = true;
  note("protected", fmt::format("{} is held by enough nodes", to_string(job().safe)),
       {{"version", std::to_string(job().safe.version.value)}});
}

void Coordinator::Machine::on(const WorkerCaptureMissed& event) {
  if (!current(event.node, event.session, event.epoch) || phase_ != Phase::kRunning) return;
  if (!captures_.missed({event.version, event.attempt}, event.too_late)) return;
  note("capture_missed", fmt::format("version {} on node {}: {}", event.version.value,
                                     event.node.value, event.why),
       {{"node", event.node.value}, {"version", std::to_string(event.version.value)}});
  abandon(event.version);
  name_captures();
}

// What a slow network takes to bring what one node captures to its holders.
int64_t Coordinator::Machine::capture_ms() const {
  std::map<NodeId, uint64_t> bytes;
  for (uint32_t shard = 0; shard < view_->owner_lane.size(); ++shard) {
    const Member& owner = view_->members[view_->owner_lane[shard]];
    bytes[owner.worker.node] += shards_.bytes[shard] * owner.holders.size();
    for (const NodeId& holder : owner.holders) bytes[holder] += shards_.bytes[shard];
  }
  uint64_t most = 0;
  for (const auto& [node, count] : bytes) most = std::max(most, count);
  return static_cast<int64_t>(most / kSlowBytesPerMs);
}

void Coordinator::Machine::watch_captures() {
  const int64_t limit_ms = patience_ms(options_.capture_timeout_ms, 5) + capture_ms();
  for (const Captures::Named& late : captures_.late(now_ms_, newest_, limit_ms)) {
    (void)captures_.missed(late, false);
    note("capture_missed", fmt::format("version {} was not replicated within {} ms",
                                       late.version.value, limit_ms));
    abandon(late.version);
  }
  name_captures();
}

// ---- suspicions ---------------------------------------------------------------------------------

// This long, or as long as so many steps of late.
int64_t Coordinator::Machine::patience_ms(int64_t least_ms, double steps) const {
  const double step_ms = last_step_ ? last_step_->seconds * 1000 : 0;
  return std::max(least_ms, static_cast<int64_t>(step_ms * steps));
}

void Coordinator::Machine::watch_suspects() {
  const int64_t still_ms = now_ms_ - last_progress_ms_;
  const bool standing = planned_ && !planned_->stopped.empty();
  for (const Member& m : view_->members) {
    const NodeStatus& node = nodes_[m.worker.node];
    if (node.state == NodeState::kUp) continue;
    const std::string who = fmt::format("node {} is gone: {}", m.worker.node.value, node.why);
    if (broken_since_ms_ >= 0) return change_view(who + "; " + broken_why_);
    if (now_ms_ - node.since_ms >= options_.daemon_grace_ms) return change_view(who);
    if (!standing && still_ms >= patience_ms(options_.steps_stopped_ms, 5) &&
        now_ms_ - node.since_ms >= options_.steps_stopped_ms)
      return change_view(who + "; and steps have stopped");
  }
  if (broken_since_ms_ >= 0 && now_ms_ - broken_since_ms_ >= options_.cause_wait_ms)
    return change_view(broken_why_);
  if (!standing && still_ms >= patience_ms(options_.stall_timeout_ms, 20))
    change_view(fmt::format("no step was done for {} ms", still_ms));
}

// A holder that is lost while this process watches ends the view at once; of one that it never heard
// of, or not since it took over, this tells.
void Coordinator::Machine::watch_holders() {
  for (const Member& m : view_->members)
    for (const NodeId& id : m.holders) {
      if (is_up(id) || lane_of(id)) continue;
      const auto known = nodes_.find(id);
      const int64_t since_ms = known == nodes_.end() ? phase_since_ms_ : known->second.since_ms;
      if (now_ms_ - since_ms >= options_.daemon_grace_ms)
        return change_view(fmt::format("node {}, which holds replicas, did not come back within {} ms",
                                       id.value, options_.daemon_grace_ms));
    }
}

void Coordinator::Machine::watch() {
  watch_suspects();
  if (phase_ == Phase::kRunning) watch_holders();
  if (phase_ != Phase::kRunning) return;
  consider_protected();
  watch_captures();
  watch_returns();
  watch_planned();
}

}  // namespace holdfast::daemon
