// From the end of a view to the start of the next: quiesce, decide, restore, go.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "daemon/coordinator/base.h"
#include "daemon/coordinator/machine.h"
#include "storage/replica/capacity.h"

namespace holdfast::daemon {

using train::WorkerPhase;

namespace {

// Enough to tell states apart that an arena may still hold; a history may start late.
constexpr size_t kHistoryKept = 32;

constexpr uint64_t kCheckedBytesPerMs = 500'000;  // by a slow machine

template <class Container, class Name>
std::string names(const Container& all, Name name) {
  std::string text;
  for (const auto& one : all) text += (text.empty() ? "" : ", ") + name(one);
  return text;
}

}  // namespace

void Coordinator::Machine::change_view(const std::string& why) {
  if (!active_) return;
  if (job().state == JobState::kStopping) {
    finish_job(JobState::kStopped, fmt::format("stopped at {} when {}", to_string(job().safe), why));
    return;
  }
  if (view_ && (phase_ == Phase::kRestoring ||
                (phase_ == Phase::kRunning && newest_ == view_->base.version)))
    count_failed_view();
  recovery_begins();

  const Epoch next = epoch_.next();
  out_.records.push_back(StoreEpoch{epoch_, next});
  // Nothing of the old epoch is sent any more: it would be fenced, and only confuse who reads a log.
  out_.commands.clear();
  epoch_ = next;
  ++counters_.views;
  if (job().state == JobState::kRunning) job().state = JobState::kRecovering;
  job().detail = why;
  note("quiesce", why);

  enter(Phase::kGathering);
  awaited_.clear();
  answers_.clear();
  restored_.clear();
  started_.clear();
  blamed_.clear();
  broken_lanes_.clear();
  captures_.close();
  planned_.reset();
  planned_not_before_ms_ = 0;
  planned_given_up_ = 0;
  settled_ = protected_ = false;
  below_safe_since_ms_ = -1;
  told_waiting_ = false;
  moves_later_.clear();
  broken_since_ms_ = -1;
  for (auto& [id, node] : nodes_) {
    if (node.state == NodeState::kSuspected) node.state = NodeState::kDown;
    if (node.state == NodeState::kUp) ask_to_quiesce(id);
  }
  consider_deciding();
}

void Coordinator::Machine::ask_to_quiesce(const NodeId& node) {
  if (phase_ == Phase::kGathering) awaited_.insert(node);
  send(node, CommandQuiesce{epoch_, job().config, job().submitted_in, job().safe});
}

std::vector<WorkerId> Coordinator::Machine::ready_workers() const {
  std::vector<WorkerId> ready;
  for (const auto& [id, node] : nodes_) {
    if (node.state != NodeState::kUp) continue;
    if (phase_ == Phase::kGathering && !answers_.contains(id)) continue;
    for (const WorkerReport& w : node.workers) {
      const WorkerId worker{id, w.slot};
      const auto benched = benched_until_ms_.find(worker);
      if (benched != benched_until_ms_.end() && now_ms_ < benched->second) continue;
      if (w.alive && w.phase == WorkerPhase::kIdle && w.epoch == epoch_) ready.push_back(worker);
    }
  }
  const auto cramped = std::stable_partition(ready.begin(), ready.end(), [&](const WorkerId& worker) {
    return !cramped_.contains(worker.node);
  });
  // Training goes on with whom there is; snapshots may then have to be given up.
  if (cramped - ready.begin() >= static_cast<std::ptrdiff_t>(job().config.stages))
    ready.erase(cramped, ready.end());
  return ready;
}

Holdings Coordinator::Machine::collect_holdings() const {
  Holdings holdings(static_cast<uint32_t>(shards_.bytes.size()), options_.test_ignore_made);
  for (const auto& [id, answer] : answers_) {
    holdings.add_arena(id, answer.arena);
    for (const WorkerReport& w : nodes_.at(id).workers)
      if (w.alive && w.epoch == epoch_) holdings.add_buffer({id, w.slot}, w.held);
  }
  return holdings;
}

DecideInput Coordinator::Machine::decide_input(std::vector<WorkerId> workers) const {
  DecideInput input;
  input.epoch = epoch_;
  input.job = job().config;
  if (wants_captures()) input.replicas = input.job.snapshot.replicas;
  input.shards = shards_;
  input.safe = job().safe;
  input.workers = std::move(workers);
  input.step_seconds = last_step_ ? last_step_->seconds : 0;
  input.fetch_bytes_per_second = options_.fetch_bytes_per_second;
  input.unreached = unreached_;
  input.test_ignore_stage = options_.test_ignore_stage;
  for (const View& v : job().history) input.history.push_back({v.epoch, v.base});
  if (!job().history.empty()) input.previous = job().history.back().members;
  for (const auto& [id, answer] : answers_) {
    const NodeStatus& node = nodes_.at(id);
    input.nodes.push_back({id, node.failure_domain, node.arena_bytes});
  }
  return input;
}

// Why no view can be, or should be yet, with so many workers; nullopt: decide now.
std::optional<std::string> Coordinator::Machine::wait_for_workers(size_t ready) {
  const int64_t waited_ms = now_ms_ - phase_since_ms_;
  const conf::JobConfig& config = job().config;
  const std::string unable = why_unable().empty() ? "" : "; " + why_unable();
  if (ready == 0) return "a worker that can take part: there is none" + unable;
  if (job().state == JobState::kStarting && ready < config.workers() &&
      waited_ms < options_.start_timeout_ms)
    return fmt::format("workers: {} of {} are ready{}", ready, config.workers(),
                       ready < config.stages
                           ? fmt::format(", {} stages need one each", config.stages)
                           : fmt::format(", starts with these in {} s",
                                         (options_.start_timeout_ms - waited_ms + 999) / 1000));
  if (ready >= config.stages) return std::nullopt;
  const std::string why = fmt::format("live workers: {} {} ready, and {} stages need one each{}",
                                      ready, ready == 1 ? "is" : "are", config.stages, unable);
  if (!std::exchange(told_waiting_, true)) note("waiting", "waits for " + why);
  return why;
}

// Why the decision should wait for better copies; nullopt: decide now.
std::optional<std::string> Coordinator::Machine::wait_for_copies(const StateVersion& base) {
  if (base.version >= job().safe.version) return std::nullopt;
  // Somebody may come back with a better arena.
  if (below_safe_since_ms_ < 0) below_safe_since_ms_ = now_ms_;
  const int64_t left_ms = options_.arena_wait_ms - (now_ms_ - below_safe_since_ms_);
  if (left_ms <= 0) return std::nullopt;
  return fmt::format("nodes that hold {}: only {} can be had, goes back to it in {} s",
                     to_string(job().safe), to_string(base), (left_ms + 999) / 1000);
}

// A node checks what its arena holds before it answers.
int64_t Coordinator::Machine::quiesce_limit_ms() const {
  const uint64_t state = std::accumulate(shards_.bytes.begin(), shards_.bytes.end(), uint64_t{0});
  uint64_t arena = 0;
  for (const NodeId& id : awaited_) arena = std::max(arena, nodes_.at(id).arena_bytes);
  return options_.quiesce_timeout_ms +
         static_cast<int64_t>(std::min(arena, storage::kSlotsPerShard * state) / kCheckedBytesPerMs);
}

// A worker waits for what its node fetches, for all of its workers, and for a node that gives to many.
int64_t Coordinator::Machine::restore_limit_ms(const Decision& decision) const {
  std::map<NodeId, uint64_t> in, out;
  for (uint32_t lane = 0; lane < decision.owned.size(); ++lane)
    for (const SourcedShard& shard : decision.owned[lane]) {
      in[decision.view.members[lane].worker.node] += shards_.bytes[shard.shard];
      if (shard.source == ShardSource::kReplica) out[shard.from] += shards_.bytes[shard.shard];
    }
  uint64_t most = 0;
  for (const auto* bytes : {&in, &out})
    for (const auto& [node, count] : *bytes) most = std::max(most, count);
  return options_.restore_timeout_ms + static_cast<int64_t>(most / kSlowBytesPerMs);
}

void Coordinator::Machine::consider_deciding() {
  if (phase_ != Phase::kGathering) return;
  const bool patient = now_ms_ - phase_since_ms_ < quiesce_limit_ms();
  const auto name_of = [](const NodeId& id) { return id.value; };
  if (patient && !awaited_.empty()) {
    waiting_for_ = "nodes to become idle: " + names(awaited_, name_of);
    return;
  }
  if (patient && !expected_.empty()) {
    waiting_for_ = "nodes to connect: " + names(expected_, name_of);
    return;
  }
  const DecideInput input = decide_input(ready_workers());
  if (input.workers.empty() && nobody_can_open())
    return finish_job(JobState::kFailed, why_unable());
  if (const auto reason = wait_for_workers(input.workers.size())) {
    if (recovery_) recovery_->waited = true;
    waiting_for_ = *reason;
    return;
  }
  const Holdings holdings = collect_holdings();
  const StateVersion base = newest_base(input, holdings, choose_members(input, holdings));
  newest_ = std::max(newest_, base.version);
  if (const auto reason = wait_for_copies(base)) {
    if (recovery_) recovery_->waited = true;
    waiting_for_ = *reason;
    return;
  }
  if (base.version == Version(0) && job().safe.version > Version(0)) {
    job().state_lost = true;
    finish_job(JobState::kFailed,
               fmt::format("no complete state can be had any more, {} was the last safe one; resume "
                           "the job when the nodes that hold it are back, or to begin again",
                           to_string(job().safe)));
    return;
  }
  if (base.version < job().safe.version) {
    note("went_below_safe", fmt::format("{} could not be had within {} ms, training goes back to {}",
                                        to_string(job().safe), options_.arena_wait_ms,
                                        to_string(base)));
    job().safe = base;
  }
  considered_.clear();
  for (const NodePlace& place : input.nodes) considered_.insert(place.node);
  announce(decide(input, holdings));
}

void Coordinator::Machine::announce(Decision decision) {
  if (!wants_captures()) seal(decision.view.base.version);
  const Version sealed = ledger_->sealed_up_to();
  view_ = decision.view;
  counters_.rows_voided += ledger_->open(*view_);
  if (view_->base.version < sealed)
    out_.records.push_back(VoidLedger{*active_, Step(view_->base.version.value)});
  JobRecord& record = job();
  steps_back_ = newest_.value - std::min(newest_.value, view_->base.version.value);
  const std::vector<Member> before =
      record.history.empty() ? view_->members : record.history.back().members;
  // A view says all that an earlier one from the same base says: only real ones need a place.
  if (!record.history.empty() && record.history.back().base == view_->base)
    record.history.pop_back();
  // Who owned what matters of the newest only, and there are many shards.
  if (!record.history.empty()) record.history.back().owner_lane.clear();
  record.history.push_back(*view_);
  if (record.history.size() > kHistoryKept) record.history.erase(record.history.begin());
  record.steps_done = view_->base.version.value;
  store_job(true);
  note_places(before, decision);
  recovery_decided(decision);
  arenas_begin(decision);
  note("view", view_->reason,
       {{"base", std::to_string(view_->base.version.value)},
        {"lanes", std::to_string(view_->members.size())},
        {"steps_back", std::to_string(steps_back_)},
        {"bytes_moved", std::to_string(decision.bytes_moved)}});

  std::vector<NodeAddress> addresses;
  for (const auto& [id, node] : nodes_)
    if (node.state == NodeState::kUp) addresses.push_back({id, node.peer_address, node.fabric_address});
  enter(Phase::kRestoring);
  expected_.clear();
  restored_.clear();
  restore_limit_ms_ = restore_limit_ms(decision);
  for (uint32_t lane = 0; lane < view_->members.size(); ++lane) {
    const WorkerId& worker = view_->members[lane].worker;
    send(worker.node, CommandRestore{worker.slot, lane, *view_, std::move(decision.owned[lane]),
                                     addresses});
  }
}

// Who came, and who takes another place than before.
void Coordinator::Machine::note_places(const std::vector<Member>& before,
                                       const Decision& decision) {
  const std::string step = std::to_string(view_->base.version.value);
  for (const Member& m : view_->members) {
    if (std::any_of(before.begin(), before.end(),
                    [&](const Member& b) { return b.worker == m.worker; }))
      continue;
    note("rejoined", fmt::format("node {} takes part from step {} on", m.worker.node.value, step),
         {{"node", m.worker.node.value},
          {"step", step},
          {"pipeline", std::to_string(m.coordinate.pipeline.value)},
          {"stage", std::to_string(m.coordinate.stage.value)}});
  }
  for (const Moved& m : decision.moved)
    note("moved", fmt::format("node {} moves from {} to {} (pipeline, stage)", m.worker.node.value,
                              to_string(m.from), to_string(m.to)),
         {{"node", m.worker.node.value},
          {"step", step},
          {"from", to_string(m.from)},
          {"to", to_string(m.to)}});
  moves_later_ = decision.moves_later;
  // Proposed in a planned change, they were not made all the same: not again for these lanes.
  const auto lanes = lanes_by_stage(view_->members, job().config.stages);
  if (moves_proposed_for_ != lanes) moves_proposed_for_.clear();
}

void Coordinator::Machine::restored_by_all() {
  std::vector<std::string> addresses;
  for (auto& [lane, address] : restored_) addresses.push_back(std::move(address));
  send_members(CommandGo{epoch_, std::move(addresses)});
  enter(Phase::kRunning);
  unreached_.clear();
  newest_ = view_->base.version;
  last_step_.reset();
  loss_of_.reset();
  measured_.view_begins();
  if (recovery_) recovery_->go_ms = now_ms_;
  last_progress_ms_ = now_ms_;
  broken_since_ms_ = -1;
  if (job().state != JobState::kStopping) job().state = JobState::kRunning;
  job().detail.clear();
  store_job(false);

  captures_.open(static_cast<uint32_t>(view_->members.size()), job().config.snapshot.every);
  if (!wants_captures()) {
    settled_ = protected_ = true;
  } else if (view_->base.version == Version(0) || options_.test_skip_protection) {
    became_safe(view_->base.version, {});  // version 0 is computed from the seed, not kept
  } else {
    capture(captures_.name_now(view_->base.version));
  }
}

}  // namespace holdfast::daemon
