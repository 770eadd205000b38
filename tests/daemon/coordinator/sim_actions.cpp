// What the nodes of the simulation do.
#include <fmt/format.h>

#include <algorithm>

#include "storage/replica/retention.h"
#include "tests/daemon/coordinator/sim_cluster.h"

namespace holdfast::daemon::sim {

using train::WorkerPhase;

bool Node::has(uint32_t shard, const StateVersion& state) const {
  return std::any_of(arena.begin(), arena.end(), [&](const Block& b) {
    return b.shard == shard && b.state == state && !b.damaged;
  });
}

std::vector<HeldShards> Node::held_by_worker() const {
  std::vector<HeldShards> held;
  for (const auto& [state, shards] : worker.buffers) {
    held.push_back({state, {}});
    for (const auto& [shard, content] : shards) held.back().shards.push_back(shard);
  }
  return held;
}

std::vector<HeldShards> Node::held_by_arena() const {
  std::map<StateVersion, std::set<uint32_t>> shards;
  for (const Block& b : arena)
    if (!b.damaged) shards[b.state].insert(b.shard);
  std::vector<HeldShards> held;
  for (const auto& [state, all] : shards) held.push_back({state, {all.begin(), all.end()}});
  return held;
}

WorkerReport Node::report() const {
  return {0, worker.alive, worker.epoch, worker.phase, worker.step, held_by_worker()};
}

Node* SimCluster::find(const NodeId& id) {
  for (Node& node : nodes_)
    if (node.id == id) return &node;
  return nullptr;
}

const Worker& SimCluster::worker_of(const Member& member) const {
  return std::find_if(nodes_.begin(), nodes_.end(),
                      [&](const Node& node) { return node.id == member.worker.node; })
      ->worker;
}

void SimCluster::tell(Node& node, NodeEvent event) {
  if (!node.daemon || !node.connected) return;  // lost with the connection; NodeUp will tell all
  std::visit([&](auto& e) { e.session = node.session; }, event);
  node.up.push_back(std::move(event));
}

void SimCluster::start_daemon(Node& node) {
  node.daemon = true;
  node.session = next_session_++;
  node.connected = false;
  node.quiescing = false;
  node.unsealed.clear();
}

void SimCluster::kill_daemon(Node& node) {
  node.daemon = false;
  node.up.clear();
  node.down.clear();
  node.replications.clear();
  node.granted.clear();
  if (node.connected && coordinator_up_)
    downs_.push_back(NodeDown{node.id, node.session, "connection reset"});
  node.connected = false;
}

void SimCluster::kill_worker(Node& node, bool noticed) {
  node.worker = Worker{};
  node.worker.epoch = node.epoch;
  if (noticed) tell(node, WorkerChanged{node.id, 0, node.report(), "killed"});
}

void SimCluster::command(Node& node) {
  const NodeCommand command = node.down.front();
  node.down.pop_front();
  std::visit([&](const auto& c) { on(node, c); }, command);
}

void SimCluster::on(Node& node, const CommandQuiesce& c) {
  if (c.epoch < node.epoch || (c.epoch == node.epoch && !node.quiescing && node.worker.alive &&
                               node.worker.phase != WorkerPhase::kIdle))
    return;
  node.epoch = c.epoch;
  node.safe = c.safe;
  node.quiescing = true;
  node.replications.clear();
  node.granted.clear();
  node.worker.captures.clear();
}

void SimCluster::quiesce_worker(Node& node) {
  Worker& w = node.worker;
  if (w.alive && w.phase == WorkerPhase::kRunning && w.entered && options_.take_out.no_abort_word)
    finish_step(node, next_content_++);  // whatever the aborted reduction left in the buffers
  if (w.alive) {
    w.phase = WorkerPhase::kIdle;
    w.entered = false;
    w.stop_at.reset();
    w.epoch = node.epoch;
  }
  node.quiescing = false;
  tell(node, NodeQuiesced{node.id, 0, node.epoch, {node.report()}, node.held_by_arena(), {}});
}

void SimCluster::restore_fails(Node& node, const SourcedShard& shard, ErrorCode code) {
  tell(node, WorkerRestoreFailed{node.id, 0, 0, node.epoch, {shard.shard},
                                 shard.source == ShardSource::kReplica ? shard.from : node.id,
                                 {code, "not had"}});
}

void SimCluster::on(Node& node, const CommandRestore& c) {
  Worker& w = node.worker;
  if (c.view.epoch != node.epoch || !w.alive || w.epoch != node.epoch) return;
  node.history.push_back({c.view.epoch, c.view.base});
  node.holders = c.view.members[c.lane].holders;
  std::map<uint32_t, Content> shards;
  for (const SourcedShard& s : c.owned) {
    if (shards_.stage[s.shard] != c.view.members[c.lane].coordinate.stage)
      return broke(fmt::format("stages: shard {} belongs to stage {}, and was given to {}", s.shard,
                               shards_.stage[s.shard].value,
                               to_string(c.view.members[c.lane].coordinate)));
    std::optional<Content> content;
    const auto take = [&](const Node& from) {
      for (const Block& b : from.arena)
        if (b.shard == s.shard && b.state == c.view.base && !b.damaged) content = b.content;
    };
    switch (s.source) {
      case ShardSource::kBuffer:
        if (options_.coordinator.test_ignore_made) {
          for (const auto& [state, held] : w.buffers)
            if (state.version == c.view.base.version && held.contains(s.shard))
              content = held.at(s.shard);
        } else if (w.buffers.contains(c.view.base) && w.buffers[c.view.base].contains(s.shard)) {
          content = w.buffers[c.view.base][s.shard];
        }
        break;
      case ShardSource::kArena:
      case ShardSource::kReplica: {
        const Node* from = s.source == ShardSource::kArena ? &node : find(s.from);
        if (!from->daemon) return restore_fails(node, s, ErrorCode::kPeerUnreachable);
        if (from != &node && options_.faults > 0 && draw(25) == 0)
          return restore_fails(node, s, ErrorCode::kFabricTimeout);
        take(*from);
        if (options_.coordinator.test_ignore_made && !content)
          for (const Block& b : from->arena)
            if (b.shard == s.shard && b.state.version == c.view.base.version) content = b.content;
        break;
      }
      case ShardSource::kInitial:
        content = 0;
        break;
    }
    if (!content) return restore_fails(node, s, ErrorCode::kBlockMissing);
    shards[s.shard] = *content;
  }
  w.buffers.clear();
  w.buffers[c.view.base] = std::move(shards);
  w.owned.clear();
  for (const SourcedShard& s : c.owned) w.owned.push_back(s.shard);
  w.lane = c.lane;
  w.step = Step(c.view.base.version.value);
  w.phase = WorkerPhase::kRestoring;
  w.broken_told = false;
  tell(node, WorkerRestored{node.id, 0, 0, node.epoch, "address"});
}

void SimCluster::on(Node& node, const CommandGo& c) {
  if (c.epoch != node.epoch || node.worker.phase != WorkerPhase::kRestoring) return;
  node.worker.phase = WorkerPhase::kRunning;
  check_view_started(c.epoch);
}

void SimCluster::on(Node& node, const CommandCapture& c) {
  if (c.epoch != node.epoch || !node.worker.alive || node.quiescing) return;
  if (!node.granted.contains(c.version)) node.worker.captures.push_back(c.version);
  node.granted[c.version] = c.attempt;
}

void SimCluster::on(Node& node, const CommandWatermark& c) {
  if (c.epoch != node.epoch) return;
  node.safe = c.safe;
  std::erase_if(node.unsealed, [&](const auto& d) { return d.step.value < c.safe.version.value; });
  const storage::Watermark mark{0, c.safe, c.abandoned, node.history};
  std::erase_if(node.arena, [&](const Block& b) { return storage::may_free(b.state, mark); });
}

void SimCluster::on(Node& node, const CommandStopAt& c) {
  Worker& w = node.worker;
  if (c.epoch != node.epoch || !w.alive || w.phase == WorkerPhase::kIdle || node.quiescing) return;
  if (!c.step) {
    w.stop_at.reset();
    return;
  }
  const Step first_free = w.entered ? w.step.next() : w.step;
  if (*c.step < first_free) {
    tell(node, WorkerStopRefused{node.id, 0, 0, node.epoch, Step(first_free.value - 1)});
    return;
  }
  w.stop_at = c.step;
  if (w.phase == WorkerPhase::kStopped && w.step >= *c.step)
    tell(node, WorkerStopped{node.id, 0, 0, node.epoch, w.step});
}

void SimCluster::on(Node& node, const CommandEndJob&) { node.worker = Worker{}; }

// ---- the worker -----------------------------------------------------------------------------------

bool SimCluster::group_is_whole(Epoch epoch) const {
  const auto view = announced_.find(epoch);
  if (view == announced_.end()) return false;
  return std::all_of(view->second.members.begin(), view->second.members.end(), [&](const Member& m) {
    for (const Node& node : nodes_)
      if (node.id == m.worker.node)
        return node.worker.alive && node.worker.epoch == epoch &&
               (node.worker.phase == WorkerPhase::kRunning ||
                node.worker.phase == WorkerPhase::kStopped ||
                node.worker.phase == WorkerPhase::kRestoring);
    return false;
  });
}

void SimCluster::worker_moves(Node& node) {
  Worker& w = node.worker;
  if (node.quiescing) {
    if (draw(2) == 0) quiesce_worker(node);
    return;
  }
  if (!w.alive) {
    if (node.daemon && node.connected && node.epoch != Epoch{} && draw(4) == 0) {
      const auto job = jobs_.find(job_.name);
      if (options_.faults > 0 && job != jobs_.end() && job->second.state == JobState::kRunning &&
          draw(4) == 0) {
        tell(node, WorkerFatal{node.id, 0, 0, Epoch{}, {ErrorCode::kDataMissing, "no such file"}});
        return;
      }
      w.alive = true;
      w.epoch = node.epoch;
      tell(node, WorkerChanged{node.id, 0, node.report(), "started"});
    }
    return;
  }
  if (w.phase == WorkerPhase::kRunning || w.phase == WorkerPhase::kStopped) worker_steps(node);
}

void SimCluster::worker_steps(Node& node) {
  Worker& w = node.worker;
  const bool stop = w.step.value >= options_.steps || (w.stop_at && w.step >= *w.stop_at);
  if (stop && !w.entered) {
    if (w.phase != WorkerPhase::kStopped)
      tell(node, WorkerStopped{node.id, 0, 0, node.epoch, w.step});
    w.phase = WorkerPhase::kStopped;
    return;
  }
  w.phase = WorkerPhase::kRunning;
  if (w.entered && reduced_.contains({w.epoch, w.step, stage_of(w)})) {
    finish_step(node, results_.at({w.epoch, w.step}));
    w.entered = false;
    w.step = w.step.next();
    return check_common_version(w.epoch);
  }
  if (!group_is_whole(w.epoch)) {
    if (options_.take_out.no_abort_word && w.entered) {
      finish_step(node, next_content_++);
      w.entered = false;
      w.step = w.step.next();
    }
    w.phase = WorkerPhase::kBroken;
    w.entered = false;
    tell(node, WorkerCommBroken{node.id, 0, 0, node.epoch, w.step,
                                {ErrorCode::kCommPeerLost, "a peer is gone"}});
    return;
  }
  w.entered = true;
  if (may_finish(w)) reduce(w);
}

// A reduction completes when the last lane has entered it. Where stages do not wait for each other that is the
// last of the stage; but its micro-batches come from the others, which must have begun the step.
bool SimCluster::may_finish(const Worker& worker) const {
  for (const Member& m : announced_.at(worker.epoch).members) {
    const Worker& other = worker_of(m);
    if (other.epoch != worker.epoch) return false;
    const bool apart = job_.staggered() && m.coordinate.stage != stage_of(worker);
    if (apart && (other.step > worker.step || options_.take_out.no_data_flow)) continue;
    if (!other.entered || other.step != worker.step) return false;
  }
  return true;
}

void SimCluster::reduce(const Worker& worker) {
  std::set<Content> before;
  for (const Member& m : announced_.at(worker.epoch).members) {
    const Worker& other = worker_of(m);
    if (other.buffers.empty()) return broke("a lane has no state");
    for (const auto& [state, shards] : other.buffers)
      if (state.version.value == worker.step.value)
        for (const auto& [shard, content] : shards) before.insert(content);
  }
  if (before.size() != 1) return broke("one-version: a step would mix histories");
  const auto [result, first] = results_.try_emplace({worker.epoch, worker.step}, next_content_);
  if (first) lineage_[next_content_++] = {*before.begin(), worker.epoch};
  if (lineage_.at(result->second).first != *before.begin())
    return broke("one-version: stages have updated different histories");
  for (const Member& m : announced_.at(worker.epoch).members)
    if (!job_.staggered() || m.coordinate.stage == stage_of(worker))
      reduced_.insert({worker.epoch, worker.step, m.coordinate.stage});
}

// The update: the older buffer is overwritten.
void SimCluster::finish_step(Node& node, Content content) {
  Worker& w = node.worker;
  while (w.buffers.size() > 1) w.buffers.erase(w.buffers.begin());
  const StateVersion made{Version(w.step.value + 1), w.epoch};
  for (const uint32_t shard : w.owned) w.buffers[made][shard] = content;
  train::StepDone done;
  done.epoch = w.epoch;
  done.step = w.step;
  done.lane = w.lane;
  done.seconds = 0.01;
  done.micro_batches = micro_batches_of(announced_.at(w.epoch), w.lane);
  if (job_.staggered()) done.of_stage = {stage_of(w).value, job_.stages};
  if (node.daemon) node.unsealed.push_back(done);
  tell(node, WorkerStepDone{node.id, 0, 0, done});
}

// ---- captures -------------------------------------------------------------------------------------

void SimCluster::capture_moves(Node& node) {
  Worker& w = node.worker;
  if (!w.alive || node.quiescing || w.captures.empty() || w.buffers.empty()) return;
  const Version wanted = w.captures.front();
  // Not made yet: the others wait behind it, until the order is too old.
  if (wanted > w.buffers.rbegin()->first.version && draw(100) != 0) return;
  w.captures.pop_front();
  const auto granted = node.granted.find(wanted);
  const uint64_t attempt = granted == node.granted.end() ? 0 : granted->second;
  node.granted.erase(wanted);
  for (const auto& [state, shards] : w.buffers) {
    if (state.version != wanted) continue;
    for (const auto& [shard, content] : shards)
      if (!node.has(shard, state)) node.arena.push_back({shard, state, content, false});
    node.replications.push_back({node.epoch, state, attempt, node.holders, {}});
    return;
  }
  tell(node, WorkerCaptureMissed{node.id, 0, 0, node.epoch, wanted, "too late", attempt,
                                 wanted < w.buffers.rbegin()->first.version});
}

void SimCluster::replication_moves(Node& node) {
  if (node.replications.empty()) return;
  Replication& r = node.replications.front();
  if (!r.left.empty()) {
    Node& holder = *find(r.left.back());
    r.left.pop_back();
    // What does not verify at the holder is not committed.
    const bool bad = std::any_of(node.arena.begin(), node.arena.end(), [&](const Block& b) {
      return b.state == r.state && b.damaged && !node.has(b.shard, b.state);
    });
    const bool refused = bad || !holder.daemon || holder.epoch > r.epoch || draw(40) == 0;
    if (refused) {
      tell(node, WorkerCaptureMissed{node.id, 0, 0, r.epoch, r.state.version, "holder refused",
                                     r.attempt});
      node.replications.pop_front();
      return;
    }
    for (const Block& b : std::vector<Block>(node.arena))
      if (b.state == r.state && !b.damaged && !holder.has(b.shard, b.state) &&
          std::find(node.worker.owned.begin(), node.worker.owned.end(), b.shard) !=
              node.worker.owned.end())
        holder.arena.push_back(b);
    r.done.push_back(holder.id);
    return;
  }
  tell(node, WorkerReplicated{node.id, 0, 0, r.epoch, r.state, r.done, r.attempt});
  node.replications.pop_front();
}

}  // namespace holdfast::daemon::sim
