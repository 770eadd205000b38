// What a question foretells, beside what really comes.
#include <fmt/format.h>

#include <algorithm>

#include "tests/daemon/coordinator/sim_cluster.h"

namespace holdfast::daemon::sim {

using train::WorkerPhase;

namespace {

constexpr uint32_t kMostRounds = 4'000;  // of 10 ms: longer than anybody waits

// All that a coordinator says, as text.
std::string text_of(const Outcome& outcome) {
  std::string text;
  const auto add = [&](const auto& value) {
    using Value = std::decay_t<decltype(value)>;
    if constexpr (std::is_same_v<Value, StoreEpoch>) {
      text += "epoch " + to_string(value.next);
    } else if constexpr (std::is_same_v<Value, StoreJob>) {
      text += to_json_text(value.job);
    } else if constexpr (std::is_same_v<Value, SealRow>) {
      text += to_json_text(value.row);
    } else if constexpr (std::is_same_v<Value, VoidLedger>) {
      text += fmt::format("void from {}", value.from.value);
    } else if constexpr (std::is_same_v<Value, DropJob>) {
      text += "drop";
    } else if constexpr (std::is_same_v<Value, RequestDone>) {
      text += fmt::format("answer {}", value.request);
    } else {
      text += to_json_text(value);
    }
    text += "\n";
  };
  for (const Record& record : outcome.records) std::visit(add, record);
  for (const auto& [node, command] : outcome.commands) {
    text += node.value + ": ";
    std::visit(add, command);
  }
  return text;
}

}  // namespace

Outcome SimCluster::decided(const Event& event) {
  Outcome outcome = coordinator_->step(now_ms_, event);
  if (twin_ && text_of(twin_->step(now_ms_, event)) != text_of(outcome))
    broke("a question changed what the coordinator does");
  return outcome;
}

// Everything that is on its way arrives; no step begins.
bool SimCluster::settle_node(Node& node) {
  bool moved = false;
  Worker& w = node.worker;
  if (w.alive && w.entered && results_.contains({w.epoch, w.step})) {
    worker_steps(node);
    moved = true;
  }
  if (!node.daemon) return moved;
  for (; !node.up.empty(); moved = true) {
    const NodeEvent event = node.up.front();
    node.up.pop_front();
    hear(event);
  }
  for (; !node.down.empty(); moved = true) command(node);
  if (node.quiescing) {
    quiesce_worker(node);
    moved = true;
  }
  for (; !node.replications.empty(); moved = true) replication_moves(node);
  if (!w.captures.empty() && !w.buffers.empty() &&
      w.captures.front() <= w.buffers.rbegin()->first.version) {
    capture_moves(node);
    moved = true;
  }
  return moved;
}

// False: nothing can be asked now.
bool SimCluster::settle() {
  const auto strange = [&](const Node& node) {
    return (node.daemon && !node.connected) ||
           std::any_of(node.arena.begin(), node.arena.end(), [](const Block& b) { return b.damaged; });
  };
  if (!coordinator_up_ || !downs_.empty() || std::any_of(nodes_.begin(), nodes_.end(), strange))
    return false;
  for (bool moved = true; moved && broken_.empty();) {
    moved = false;
    for (Node& node : nodes_) moved = settle_node(node) || moved;
  }
  return broken_.empty() && coordinator_->phase() == Phase::kRunning;
}

// They die with their memory, everybody hears of it, and nothing else happens.
void SimCluster::lose(const std::set<NodeId>& nodes) {
  for (const NodeId& id : nodes) {
    Node& node = *find(id);
    lost_.insert(id);
    if (node.daemon) kill_daemon(node);
    kill_worker(node, false);
    node.arena.clear();
  }
  while (!downs_.empty()) hear_of_down(0);
  for (uint32_t round = 0; round < kMostRounds && broken_.empty(); ++round) {
    const Phase phase = coordinator_->phase();
    if (phase == Phase::kRestoring || phase == Phase::kIdle) return;
    for (Node& node : nodes_) {
      const WorkerPhase at = node.worker.phase;
      const bool works = at == WorkerPhase::kRunning || at == WorkerPhase::kStopped;
      if (node.worker.alive && works && !group_is_whole(node.worker.epoch)) worker_steps(node);
      for (; !node.up.empty(); node.up.pop_front()) hear(NodeEvent(node.up.front()));
      if (!node.daemon) continue;
      while (!node.down.empty()) command(node);
      if (node.quiescing) quiesce_worker(node);
    }
    if (coordinator_->phase() == Phase::kRestoring) return;
    tick(10);
  }
}

std::string SimCluster::came_otherwise(const WhatIf& foretold) const {
  const auto differ = [](const char* what, const auto& said, const auto& came) {
    return said == came ? std::string() : fmt::format("{}: foretold {}, came {}; ", what, said, came);
  };
  switch (coordinator_->phase()) {
    case Phase::kRunning: return differ("outcome", foretold.outcome, "unaffected");
    case Phase::kGathering: return differ("outcome", foretold.outcome, "waits");
    case Phase::kIdle:
      return differ("outcome", foretold.outcome,
                    jobs_.at(job_.name).state == JobState::kFailed ? "fails" : "stops");
    case Phase::kTakingOver: return "taking over";
    case Phase::kRestoring: break;
  }
  std::string text = differ("outcome", foretold.outcome, "continues");
  if (!foretold.prediction) return text + foretold.text;
  const Prediction& said = *foretold.prediction;
  const View& came = *coordinator_->view();
  text += differ("base", to_string(said.base), to_string(came.base));
  text += differ("reason", said.reason, came.reason);
  text += differ("bytes", std::to_string(said.bytes_moved), last_view_.at("bytes_moved"));
  text += differ("steps twice", std::to_string(said.steps_twice), last_view_.at("steps_back"));
  std::vector<WorkerId> workers;
  for (const Member& m : came.members) workers.push_back(m.worker);
  if (said.workers != workers) text += "other members; ";
  if (said.owner_lane != came.owner_lane) text += "other owners; ";
  for (const LaneRoute& route : said.lanes)
    for (uint32_t lane = 0; lane < came.members.size(); ++lane)
      if (came.members[lane].coordinate == route.coordinate)
        text += differ("micro-batches", size_t{route.micro_batches_after},
                       micro_batches_of(came, lane).size());
  return text;
}

Asked SimCluster::ask_and_lose(uint32_t events, uint32_t lost) {
  Asked asked;
  while (broken_.empty() && (events_ < events || !settle())) {
    const auto job = jobs_.find(job_.name);
    const bool ended = job != jobs_.end() && (job->second.state == JobState::kDone ||
                                              job->second.state == JobState::kFailed);
    if (ended || events_ > kMostRounds + events) return asked;
    one_event();
  }
  std::vector<NodeId> names;
  for (const auto& [id, known] : coordinator_->nodes())
    if (known.state == NodeState::kUp) names.push_back(id);
  std::shuffle(names.begin(), names.end(), random_);
  names.resize(std::min<size_t>(names.size(), lost));
  twin_.emplace(coordinator_->copy());
  const auto foretold = coordinator_->what_if(now_ms_, names);
  if (!foretold) {
    asked.differs = foretold.error().to_string();
    return asked;
  }
  faults_left_ = 0;
  lose({names.begin(), names.end()});
  asked.outcome = foretold->outcome;
  asked.differs = broken_.empty() ? came_otherwise(*foretold) : broken_;
  asked.better = broken_.empty() && foretold->prediction && coordinator_->phase() == Phase::kRestoring &&
                 coordinator_->view()->base.version > foretold->prediction->base.version &&
                 coordinator_->counters().captures_abandoned > 0;
  if (foretold->prediction) {
    asked.moved = !foretold->prediction->moves.empty();
    asked.bytes_moved = foretold->prediction->bytes_moved;
    asked.steps_twice = foretold->prediction->steps_twice;
  }
  return asked;
}

}  // namespace holdfast::daemon::sim
