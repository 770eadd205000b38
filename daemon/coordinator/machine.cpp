#include "daemon/coordinator/machine.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace holdfast::daemon {

using train::WorkerPhase;

Coordinator::Machine::Machine(CoordinatorOptions options, int64_t now_ms, Epoch current,
                              std::vector<JobRecord> jobs)
    : options_(options),
      now_ms_(now_ms),
      epoch_(current),
      // Attempts of an earlier process were fewer than one a millisecond.
      captures_({.under_way = 2, .most_lead = 16}, static_cast<uint64_t>(now_ms)) {
  for (JobRecord& job : jobs) {
    const JobId name = job.config.name;
    const bool active = job.state == JobState::kStarting || job.state == JobState::kRunning ||
                        job.state == JobState::kRecovering || job.state == JobState::kStopping;
    jobs_[name] = std::move(job);
    if (active) {
      CHECK(!active_.has_value());
      start(name);
    }
  }
  if (active_) take_over();
}

Outcome Coordinator::Machine::step(int64_t now_ms, const Event& event) {
  now_ms_ = now_ms;
  out_ = {};
  std::visit([this](const auto& e) { on(e); }, event);
  return std::move(out_);
}

// ---- small tools --------------------------------------------------------------------------------

void Coordinator::Machine::send(const NodeId& node, NodeCommand command) {
  const auto it = nodes_.find(node);
  if (it != nodes_.end() && it->second.state == NodeState::kUp)
    out_.commands.emplace_back(node, std::move(command));
}

void Coordinator::Machine::send_members(const NodeCommand& command) {
  std::set<NodeId> told;
  for (const Member& m : view_->members)
    if (told.insert(m.worker.node).second) send(m.worker.node, command);
}

void Coordinator::Machine::note(const std::string& kind, const std::string& text,
                                std::vector<std::pair<std::string, std::string>> details) {
  out_.records.push_back(EventRecord{0, 0, kind, active_ ? active_->value : "", epoch_, text,
                                     std::move(details)});
}

void Coordinator::Machine::enter(Phase phase) {
  phase_ = phase;
  phase_since_ms_ = now_ms_;
  waiting_for_.clear();
}

NodeStatus* Coordinator::Machine::present(const NodeId& node, uint64_t session) {
  const auto it = nodes_.find(node);
  if (it != nodes_.end() && it->second.session == session) return &it->second;
  ++counters_.events_fenced;
  return nullptr;
}

NodeStatus* Coordinator::Machine::current(const NodeId& node, uint64_t session, Epoch epoch) {
  if (epoch == epoch_ || options_.test_ignore_epoch) return present(node, session);
  ++counters_.events_fenced;
  return nullptr;
}

// True when this report ends a worker that was known to be alive.
bool Coordinator::Machine::keep_report(NodeStatus& node, const WorkerReport& report) {
  if (report.alive) unable_.erase({node.node, report.slot});
  for (WorkerReport& known : node.workers)
    if (known.slot == report.slot)
      return std::exchange(known, report).alive && !report.alive;
  node.workers.push_back(report);
  return false;
}

std::optional<uint32_t> Coordinator::Machine::lane_of(const NodeId& node) const {
  if (!view_) return std::nullopt;
  for (uint32_t lane = 0; lane < view_->members.size(); ++lane)
    if (view_->members[lane].worker.node == node) return lane;
  return std::nullopt;
}

std::optional<uint32_t> Coordinator::Machine::lane_of(const NodeId& node, uint32_t slot) const {
  if (!view_) return std::nullopt;
  for (uint32_t lane = 0; lane < view_->members.size(); ++lane)
    if (view_->members[lane].worker == WorkerId{node, slot}) return lane;
  return std::nullopt;
}

bool Coordinator::Machine::is_up(const NodeId& node) const {
  const auto it = nodes_.find(node);
  return it != nodes_.end() && it->second.state == NodeState::kUp;
}

bool Coordinator::Machine::is_holder(const NodeId& node) const {
  if (!view_) return false;
  return std::any_of(view_->members.begin(), view_->members.end(), [&](const Member& m) {
    return std::find(m.holders.begin(), m.holders.end(), node) != m.holders.end();
  });
}

// ---- nodes --------------------------------------------------------------------------------------

void Coordinator::Machine::on(const NodeUp& event) {
  NodeStatus& node = nodes_[event.node];
  if (event.session < node.session) {
    ++counters_.events_fenced;
    return;
  }
  const bool was_up = node.state == NodeState::kUp && node.session != 0;
  const bool new_process = node.session != event.session;
  if (new_process) {
    std::erase_if(unable_, [&](const auto& entry) { return entry.first.node == event.node; });
    std::erase_if(benched_before_, [&](const auto& entry) { return entry.first.node == event.node; });
    if (!lane_of(event.node)) arenas_.forget(event.node);  // a member's survives with its worker
  }
  node = NodeStatus{event.node,           event.session,       NodeState::kUp,
                    "",                   now_ms_,             event.failure_domain,
                    event.peer_address,   event.fabric_address, event.arena_bytes,
                    event.slots,          event.workers};
  if (!was_up || new_process)
    note("node_up", fmt::format("node {} is up", event.node.value), {{"node", event.node.value}});
  expected_.erase(event.node);
  if (active_) look_for_room(node);
  switch (phase_) {
    case Phase::kIdle:
      // It was away when its job ended, or was even removed.
      send(event.node, CommandEndJob{epoch_, std::nullopt, "the job has ended"});
      return;
    case Phase::kGathering:
      answers_.erase(event.node);
      ask_to_quiesce(event.node);
      consider_deciding();
      return;
    case Phase::kRestoring:
      if (lane_of(event.node) || is_holder(event.node))
        change_view(fmt::format("node {} connected again in the middle of a restore",
                                event.node.value));
      else
        ask_to_quiesce(event.node);
      return;
    case Phase::kRunning:
    case Phase::kTakingOver:
      if (lane_of(event.node))
        member_is_back(node);
      else
        ask_to_quiesce(event.node);  // so that its workers can take part in the next view
      return;
  }
}

void Coordinator::Machine::on(const NodeDown& event) {
  NodeStatus* node = present(event.node, event.session);
  if (!node || node->state != NodeState::kUp) return;
  node->state = NodeState::kSuspected;
  node->why = event.why;
  node->since_ms = now_ms_;
  note("node_suspected", fmt::format("node {}: {}", event.node.value, event.why),
       {{"node", event.node.value}});
  switch (phase_) {
    case Phase::kIdle:
      node->state = NodeState::kDown;
      return;
    case Phase::kGathering:
      node->state = NodeState::kDown;  // it cannot take part; when it comes back it is asked again
      awaited_.erase(event.node);
      answers_.erase(event.node);
      consider_deciding();
      return;
    case Phase::kRestoring:
      if (lane_of(event.node) || is_holder(event.node))
        change_view(fmt::format("node {} was lost during the restore: {}", event.node.value,
                                event.why));
      else
        node->state = NodeState::kDown;
      return;
    case Phase::kRunning:
      if (lane_of(event.node)) {
        if (broken_since_ms_ >= 0)
          change_view(fmt::format("node {} is gone: {}; {}", event.node.value, event.why,
                                  broken_why_));
        return;  // otherwise only a suspicion: its worker may train on
      }
      node->state = NodeState::kDown;
      if (is_holder(event.node))
        change_view(fmt::format("node {}, which holds replicas, is gone", event.node.value));
      return;
    case Phase::kTakingOver:
      return;
  }
}

// ---- workers ------------------------------------------------------------------------------------

void Coordinator::Machine::on(const WorkerChanged& event) {
  NodeStatus* node = present(event.node, event.session);
  if (!node) return;
  if (keep_report(*node, event.worker))
    note("worker_lost", fmt::format("worker {} of node {}: {}", event.worker.slot,
                                    event.node.value, event.why),
         {{"node", event.node.value}});
  if (!event.worker.alive) {
    if (const auto answer = answers_.find(event.node); answer != answers_.end())
      std::erase_if(answer->second.workers,
                    [&](const WorkerReport& w) { return w.slot == event.worker.slot; });
  }
  const bool member = lane_of(event.node, event.worker.slot).has_value();
  switch (phase_) {
    case Phase::kIdle:
      return;
    case Phase::kGathering:
      consider_deciding();
      return;
    case Phase::kRestoring:
    case Phase::kRunning:
    case Phase::kTakingOver:
      if (member && !event.worker.alive)
        change_view(fmt::format("the worker of node {} ended: {}", event.node.value, event.why));
      else if (member && event.worker.epoch != epoch_)
        change_view(fmt::format("the worker of node {} was started anew", event.node.value));
      return;
  }
}

void Coordinator::Machine::on(const NodeQuiesced& event) {
  NodeStatus* node = current(event.node, event.session, event.epoch);
  if (!node) return;
  for (const WorkerReport& report : event.workers) keep_report(*node, report);
  for (const std::string& damaged : event.damaged)
    note("block_damaged", fmt::format("node {}: {}", event.node.value, damaged),
         {{"node", event.node.value}});
  if (phase_ != Phase::kGathering) {  // a node that came while a view runs: see watch_returns
    arenas_.told(event.node, event.arena);
    return;
  }
  awaited_.erase(event.node);
  answers_[event.node] = event;
  consider_deciding();
}

void Coordinator::Machine::on(const WorkerRestored& event) {
  if (!current(event.node, event.session, event.epoch)) return;
  const auto lane = lane_of(event.node, event.slot);
  if (phase_ != Phase::kRestoring || !lane) return;
  restored_[*lane] = event.comm_address;
  if (restored_.size() == view_->members.size()) restored_by_all();
}

// ---- outside ------------------------------------------------------------------------------------

Event to_event(NodeEvent event) {
  return std::visit([](auto&& e) -> Event { return std::forward<decltype(e)>(e); },
                    std::move(event));
}

Coordinator::Coordinator(CoordinatorOptions options, int64_t now_ms, Epoch current,
                         std::vector<JobRecord> jobs)
    : machine_(std::make_unique<Machine>(options, now_ms, current, std::move(jobs))) {}
Coordinator::~Coordinator() = default;
Coordinator::Coordinator(Coordinator&&) noexcept = default;
Coordinator& Coordinator::operator=(Coordinator&&) noexcept = default;

Coordinator::Coordinator(std::unique_ptr<Machine> machine) : machine_(std::move(machine)) {}
Coordinator Coordinator::copy() const { return Coordinator(std::make_unique<Machine>(*machine_)); }

Outcome Coordinator::step(int64_t now_ms, const Event& event) {
  return machine_->step(now_ms, event);
}
Epoch Coordinator::epoch() const { return machine_->epoch(); }
Phase Coordinator::phase() const { return machine_->phase(); }
const std::string& Coordinator::waiting_for() const { return machine_->waiting_for(); }
const std::map<NodeId, NodeStatus>& Coordinator::nodes() const { return machine_->nodes(); }
const std::map<JobId, JobRecord>& Coordinator::jobs() const { return machine_->jobs(); }
const JobRecord* Coordinator::active_job() const { return machine_->active_job(); }
const View* Coordinator::view() const { return machine_->view(); }
bool Coordinator::is_protected() const { return machine_->is_protected(); }
StateVersion Coordinator::safe() const { return machine_->safe(); }
Version Coordinator::newest_version() const { return machine_->newest_version(); }
const std::optional<train::StepDone>& Coordinator::last_step() const {
  return machine_->last_step();
}
const CoordinatorCounters& Coordinator::counters() const { return machine_->counters(); }
Result<WhatIf> Coordinator::what_if(int64_t now_ms, const std::vector<NodeId>& failed) const {
  return machine_->what_if(now_ms, failed);
}

}  // namespace holdfast::daemon
