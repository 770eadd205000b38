// The way from the end of a view to the first step of the next, measured; after a failure, what was
// foretold beside what came.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/coordinator/machine.h"

namespace holdfast::daemon {
namespace {

constexpr uint64_t kMostCellsForetold = 2'048;  // D M S: some 50 ms on one core

using Details = std::vector<std::pair<std::string, std::string>>;

std::optional<double> seconds_between(int64_t from_ms, int64_t to_ms) {
  return static_cast<double>(to_ms - from_ms) / 1000;
}

std::string text_of(const std::optional<double>& seconds) {
  return seconds ? fmt::format("{:.2f}", *seconds) : "?";
}

// Empty: not known.
std::string number(const std::optional<double>& seconds) {
  return seconds ? fmt::format("{:.3f}", *seconds) : "";
}

std::string megabytes(uint64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

// The same worker owns the same shard.
bool same_owners(const Prediction& foretold, const View& view) {
  if (foretold.workers.size() != view.members.size()) return false;
  for (size_t lane = 0; lane < view.members.size(); ++lane)
    if (foretold.workers[lane] != view.members[lane].worker) return false;
  return foretold.owner_lane == view.owner_lane;
}

}  // namespace

// ---- arenas, while a view runs ------------------------------------------------------------------

void Coordinator::Machine::arenas_begin(const Decision& decision) {
  arenas_.clear();
  arenas_known_ = true;
  for (const auto& [id, answer] : answers_) arenas_.told(id, answer.arena);
  for (uint32_t lane = 0; lane < decision.owned.size(); ++lane)
    for (const SourcedShard& shard : decision.owned[lane])
      if (shard.source == ShardSource::kReplica)
        arenas_.add(decision.view.members[lane].worker.node, decision.view.base, {shard.shard});
}

void Coordinator::Machine::arenas_replicated(uint32_t lane, const StateVersion& state) {
  std::vector<uint32_t> owned;
  for (uint32_t shard = 0; shard < view_->owner_lane.size(); ++shard)
    if (view_->owner_lane[shard] == lane) owned.push_back(shard);
  const Member& member = view_->members[lane];
  arenas_.add(member.worker.node, state, owned);
  for (const NodeId& holder : member.holders) arenas_.add(holder, state, owned);
}

// Safe in this view means: with every owner and all holders.
void Coordinator::Machine::arenas_taken_over() {
  arenas_.clear();
  arenas_known_ = settled_;
  if (!settled_ || !wants_captures()) return;
  for (uint32_t lane = 0; lane < view_->members.size(); ++lane) arenas_replicated(lane, job().safe);
}

void Coordinator::Machine::arenas_watermark(const std::vector<Version>& abandoned) {
  storage::Watermark mark{0, job().safe, abandoned, {}};
  for (const View& v : job().history) mark.history.push_back({v.epoch, v.base});
  arenas_.watermark(mark);
}

// ---- from the end of a view to the next one's first step -----------------------------------------

// Of what ends the view that runs; now when nothing was seen before.
int64_t Coordinator::Machine::first_sign_ms() const {
  int64_t sign_ms = broken_since_ms_ >= 0 ? broken_since_ms_ : now_ms_;
  for (const Member& m : view_->members) {
    const auto node = nodes_.find(m.worker.node);
    if (node != nodes_.end() && node->second.state == NodeState::kSuspected)
      sign_ms = std::min(sign_ms, node->second.since_ms);
  }
  return sign_ms;
}

// A prediction beside what came plans anew, on the event loop: only where that takes no longer than other
// events do. `what-if` answers for any job, on a thread of its own.
bool Coordinator::Machine::foretold_beside_events() const {
  const conf::JobConfig& config = job().config;
  return uint64_t{config.pipelines} * config.micro_batches * config.stages <= kMostCellsForetold;
}

void Coordinator::Machine::recovery_begins() {
  if (is_asked_) return;
  note_pace();
  if (recovery_) {  // that view came to nothing, or ended before its first step
    ++recovery_->views;
    recovery_->connect_seconds.reset();
    return;
  }
  recovery_ = Recovery{};
  recovery_->sign_ms = recovery_->quiesce_ms = now_ms_;
  if (phase_ != Phase::kRunning || !view_) return;
  recovery_->sign_ms = first_sign_ms();
  recovery_->members = view_->members;
  if (!arenas_known_ || !foretold_beside_events()) return;
  auto before = std::make_shared<Machine>(*this);
  before->recovery_.reset();
  before->out_ = {};
  recovery_->before = std::move(before);
}

void Coordinator::Machine::recovery_decided(const Decision& decision) {
  if (!recovery_) return;
  recovery_->decided_ms = now_ms_;
  recovery_->load = load_of(shards_, decision.view, decision.owned);
  recovery_->losses = {};
  const auto takes_part = [&](const WorkerId& worker) {
    return std::any_of(decision.view.members.begin(), decision.view.members.end(),
                       [&](const Member& m) { return m.worker == worker; });
  };
  for (const Member& m : recovery_->members) {
    if (!is_up(m.worker.node))
      recovery_->losses.nodes.insert(m.worker.node);
    else if (!takes_part(m.worker))
      recovery_->losses.workers.insert(m.worker);
    for (const NodeId& holder : m.holders)
      if (!is_up(holder)) recovery_->losses.nodes.insert(holder);
  }
}

// The first step of the view is done by all.
void Coordinator::Machine::recovery_ends() {
  if (!recovery_) return;
  Recovery& r = *recovery_;
  if (r.before && !r.losses.empty()) r.foretold = r.before->foretell(r.quiesce_ms, r.losses);
  RecoveryTook took;
  took.fetched_bytes = r.load.fetched_bytes;
  took.loaded_bytes = r.load.loaded_bytes;
  if (!r.losses.empty()) took.noticed = seconds_between(r.sign_ms, r.quiesce_ms);
  took.quiesce = seconds_between(r.quiesce_ms, r.decided_ms);
  took.restore = seconds_between(r.decided_ms, r.go_ms);
  took.connect = r.connect_seconds;
  std::optional<double> first_step;
  if (r.connect_seconds)
    first_step = std::max(0.0, *seconds_between(r.go_ms, now_ms_) - *r.connect_seconds);
  took.first_step_beside = first_step;
  if (!r.losses.empty()) note_recovered(took);

  // Later predictions build on failures that one view mended and nothing was waited for: a start opens the
  // job too, and at a planned change workers stand idle already.
  const bool plain = !r.losses.empty() && r.views == 1 && !r.waited;
  if (!plain) took.quiesce = took.restore = std::nullopt;
  took.first_step_beside.reset();
  const bool known = r.foretold && r.foretold->prediction;
  if (known) pace_foretold_ = r.foretold->prediction->pace;
  if (known && first_step && pace_foretold_->step_seconds_after)
    took.first_step_beside = *first_step - *pace_foretold_->step_seconds_after;
  measured_.recovery_took(took);
  recovery_.reset();
}

// `took.first_step_beside`: the whole first step here.
void Coordinator::Machine::note_recovered(const RecoveryTook& took) {
  const Recovery& r = *recovery_;
  const Prediction* foretold =
      r.foretold && r.foretold->prediction ? &*r.foretold->prediction : nullptr;
  const auto total = seconds_between(r.sign_ms, now_ms_);
  Details details{{"outcome_predicted", r.foretold ? r.foretold->outcome : ""},
                  {"base", to_string(view_->base)},
                  {"steps_twice", std::to_string(steps_back_)},
                  {"bytes_moved", std::to_string(r.load.moved_bytes)},
                  {"seconds", number(total)},
                  {"views", std::to_string(r.views)}};
  std::string parts;
  const auto part = [&](const char* name, const std::optional<double>& seen,
                        Duration RecoveryTime::*of) {
    details.emplace_back(std::string(name) + "_seconds", number(seen));
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", name, text_of(seen));
    if (!foretold) return;
    const Duration& expected = foretold->recovery.*of;
    details.emplace_back(std::string(name) + "_seconds_predicted", number(expected.seconds));
    parts += fmt::format(" ({})", text_of(expected.seconds));
  };
  part("noticed", took.noticed, &RecoveryTime::noticed);
  part("quiesce", took.quiesce, &RecoveryTime::quiesce);
  part("restore", took.restore, &RecoveryTime::restore);
  part("connect", took.connect, &RecoveryTime::connect);
  part("first_step", took.first_step_beside, &RecoveryTime::first_step);
  std::string text;
  if (foretold) {
    const bool owners = same_owners(*foretold, *view_);
    details.insert(details.end(),
                   {{"base_predicted", to_string(foretold->base)},
                    {"steps_twice_predicted", std::to_string(foretold->steps_twice)},
                    {"bytes_moved_predicted", std::to_string(foretold->bytes_moved)},
                    {"owners_as_predicted", owners ? "true" : "false"},
                    {"seconds_predicted", number(foretold->recovery.total)}});
    text = fmt::format(
        "first step after {} s ({:.2f} foretold); from {} ({}), {} moved ({}), owners {}; s: {}",
        text_of(total), foretold->recovery.total, to_string(view_->base), to_string(foretold->base),
        megabytes(r.load.moved_bytes), megabytes(foretold->bytes_moved),
        owners ? "as foretold" : "other than foretold", parts);
  } else {
    text = fmt::format("first step after {} s; from {}, {} moved; {}; s: {}", text_of(total),
                       to_string(view_->base), megabytes(r.load.moved_bytes),
                       r.foretold ? "foretold was: " + r.foretold->text
                       : foretold_beside_events()
                           ? "nothing was foretold"
                           : "nothing was foretold, as the job is too large to plan beside events",
                       parts);
  }
  note("recovered", text, std::move(details));
}

// After some steps, or when the view ends before.
void Coordinator::Machine::note_pace() {
  if (!pace_foretold_ || is_asked_) return;
  const Pace foretold = *pace_foretold_;
  pace_foretold_.reset();
  if (measured_.steps() < 2 || !foretold.step_seconds_after) return;
  const auto seen = measured_.step_seconds();
  note("pace",
       fmt::format("a step takes {:.3f} s, {:.3f} s foretold, {:.3f} s before the failure (plan {:.4g} -> "
                   "{:.4g} units)",
                   *seen, *foretold.step_seconds_after, *foretold.step_seconds_before,
                   foretold.plan_before, foretold.plan_after),
       {{"step_seconds", number(seen)},
        {"step_seconds_predicted", number(foretold.step_seconds_after)},
        {"step_seconds_before", number(foretold.step_seconds_before)},
        {"steps", std::to_string(measured_.steps() - 1)}});
}

}  // namespace holdfast::daemon
