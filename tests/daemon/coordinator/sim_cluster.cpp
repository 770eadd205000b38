#include "tests/daemon/coordinator/sim_cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

namespace holdfast::daemon::sim {

using train::WorkerPhase;

namespace {

constexpr uint64_t kMostEvents = 60'000;  // of five nodes; more need more
constexpr uint32_t kFewNodes = 5;

conf::JobConfig walk_job(const WalkOptions& options) {
  conf::JobConfig job;
  job.name = JobId("walk");
  job.steps = options.steps;
  job.pipelines = options.pipelines;
  job.stages = options.stages;
  job.micro_batches = 2;
  job.model.layers = options.stages;
  job.model.experts = 2;
  job.model.width = 8;
  job.model.heads = 2;
  job.model.kv_heads = 1;
  job.model.expert_width = 8;
  if (options.staggered) job.optimizer.clip_by = "stage";
  job.snapshot.replicas = options.replicas;
  job.snapshot.every = options.every;
  job.data.path = "walk.tokens";
  return job;
}

}  // namespace

SimCluster::SimCluster(WalkOptions options)
    : options_(std::move(options)),
      random_(options_.seed),
      job_(walk_job(options_)),
      faults_left_(options_.faults),
      epoch_{7, 0},
      shards_(shards_of_job(job_)) {
  lineage_[0] = {0, Epoch{}};
  for (uint32_t i = 0; i < options_.nodes(); ++i) {
    nodes_.emplace_back();
    nodes_.back().id = NodeId(fmt::format("node-{}", i));
    start_daemon(nodes_.back());
  }
  coordinator_.emplace(options_.coordinator, now_ms_, epoch_, std::vector<JobRecord>{});
  feed(SubmitJob{1, job_});
}

void SimCluster::broke(const std::string& promise) {
  if (broken_.empty())
    broken_ = fmt::format("{} (seed {}, event {}, epoch {})", promise, options_.seed, events_,
                          to_string(epoch_));
}

void SimCluster::feed(const Event& event) {
  if (coordinator_up_) apply(decided(event));
}

namespace {

// Of what is said in an epoch. A finished step of the view that is ending counts whenever it comes
// (docs/coordinator.md), and an error without an epoch is of the worker, not of a view.
std::optional<Epoch> said_in(const NodeEvent& event) {
  return std::visit(
      [](const auto& e) -> std::optional<Epoch> {
        using Said = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<Said, WorkerFatal>) {
          if (e.epoch == Epoch{}) return std::nullopt;
        }
        if constexpr (requires { e.epoch; }) return e.epoch;
        return std::nullopt;
      },
      event);
}

}  // namespace

// fencing: what was sent in an older epoch has no effect.
void SimCluster::hear(const NodeEvent& event) {
  const std::optional<Epoch> epoch = said_in(event);
  const bool old = epoch && *epoch < epoch_;
  const auto seen = [&] {
    return std::tuple(coordinator_->phase(), coordinator_->epoch(), coordinator_->safe(),
                      coordinator_->newest_version(), coordinator_->is_protected());
  };
  const auto before = seen();
  const uint64_t fenced_before = fenced();
  Outcome outcome = decided(to_event(event));
  if (old && (!outcome.records.empty() || !outcome.commands.empty() || seen() != before ||
              fenced() == fenced_before))
    broke("fencing: a message of " + to_string(*epoch) + " had an effect");
  apply(std::move(outcome));
}

void SimCluster::apply(Outcome outcome) {
  for (const Record& record : outcome.records) apply_record(record);
  for (auto& [id, command] : outcome.commands) {
    Node& node = *find(id);
    if (node.daemon && node.connected) node.down.push_back(std::move(command));
  }
}

void SimCluster::apply_record(const Record& record) {
  if (const auto* epoch = std::get_if<StoreEpoch>(&record)) {
    if (epoch->expected != epoch_) broke("fencing: an epoch was stored over another");
    epoch_ = epoch->next;
  } else if (const auto* job = std::get_if<StoreJob>(&record)) {
    const auto before = jobs_.find(job->job.config.name);
    const StateVersion safe_before = before == jobs_.end() ? StateVersion{} : before->second.safe;
    const bool enough = lost_.size() <= tolerated_;
    if (enough && job->job.safe.version < safe_before.version)
      broke(fmt::format("no-loss: {} nodes lost, and {} fell to {}", lost_.size(),
                        to_string(safe_before), to_string(job->job.safe)));
    if (enough && job->job.state_lost)
      broke(fmt::format("no-loss: {} nodes lost, and the state is gone", lost_.size()));
    jobs_[job->job.config.name] = job->job;
    if (!job->job.history.empty()) {
      const View& view = job->job.history.back();
      const auto last = announced_.empty() ? view.members : announced_.rbegin()->second.members;
      if (announced_.try_emplace(view.epoch, view).second) {
        ++views_;
        older_bases_ += view.reason.find(", not v") != std::string::npos ? 1 : 0;
        check_places(view, last);
        // What becomes safe in this view does so without the nodes that were away.
        for (const auto& [id, node] : coordinator_->nodes())
          if (node.state != NodeState::kUp) lost_.insert(id);
      }
    }
  } else if (const auto* row = std::get_if<SealRow>(&record)) {
    ledger_[{row->row.step, row->row.lane}] = row->row;
  } else if (const auto* gone = std::get_if<VoidLedger>(&record)) {
    std::erase_if(ledger_, [&](const auto& entry) { return entry.first.first >= gone->from; });
  } else if (const auto* event = std::get_if<EventRecord>(&record)) {
    if (event->kind == "view") last_view_ = {event->details.begin(), event->details.end()};
    if (event->kind == "protected") {
      // With fewer live domains than replicas wanted, fewer losses are promised for.
      tolerated_ = options_.replicas;
      for (const Member& m : announced_.at(event->epoch).members)
        tolerated_ = std::min(tolerated_, static_cast<uint32_t>(m.holders.size()));
      // What the coordinator cannot know yet it did not count on.
      std::set<NodeId> still;
      for (const Node& node : nodes_) {
        const bool damaged = std::any_of(node.arena.begin(), node.arena.end(), [&](const Block& b) {
          return b.damaged && b.state == coordinator_->safe();
        });
        if (!node.daemon || (lost_.contains(node.id) && (damaged || !knows(node))))
          still.insert(node.id);
      }
      lost_ = std::move(still);
    }
  }
}

// The coordinator has heard of the present life of the node.
bool SimCluster::knows(const Node& node) const {
  const auto known = coordinator_->nodes().find(node.id);
  return known != coordinator_->nodes().end() && known->second.session == node.session;
}

void SimCluster::hear_of_down(size_t index) {
  const NodeDown down = downs_[index];
  downs_.erase(downs_.begin() + static_cast<std::ptrdiff_t>(index));
  feed(down);
}

void SimCluster::restart_coordinator() {
  std::vector<JobRecord> jobs;
  for (const auto& [name, job] : jobs_) jobs.push_back(job);
  coordinator_.emplace(options_.coordinator, now_ms_, epoch_, std::move(jobs));
  coordinator_up_ = true;
  downs_.clear();
  for (Node& node : nodes_) {
    node.connected = false;
    node.up.clear();
    node.down.clear();
  }
}

void SimCluster::fault() {
  --faults_left_;
  Node& node = nodes_[draw(options_.nodes())];
  switch (draw(7)) {
    case 0:
      if (node.worker.alive) kill_worker(node, node.daemon);
      return;
    case 1:  // the daemon alone
      if (node.daemon) kill_daemon(node);
      return;
    case 2:  // the node, its memory stays
      if (node.daemon) kill_daemon(node);
      kill_worker(node, false);
      lost_.insert(node.id);
      return;
    case 3:  // the machine
      if (node.daemon) kill_daemon(node);
      kill_worker(node, false);
      node.arena.clear();
      lost_.insert(node.id);
      return;
    case 4: {  // a bad byte: that copy is as good as lost
      if (node.arena.empty()) return;
      node.arena[draw(static_cast<uint32_t>(node.arena.size()))].damaged = true;
      lost_.insert(node.id);
      return;
    }
    case 5:
      coordinator_up_ = false;
      return;
    case 6:
      return stage_fault();
  }
}

// Failures pile up on one stage: some of its nodes, perhaps all, their memory stays.
void SimCluster::stage_fault() {
  if (announced_.empty() || job_.stages == 1) return;
  const View& view = announced_.rbegin()->second;
  const StageIndex stage(draw(job_.stages));
  for (const Member& m : view.members) {
    if (m.coordinate.stage != stage || draw(3) == 0) continue;
    Node& node = *find(m.worker.node);
    if (node.daemon) kill_daemon(node);
    kill_worker(node, false);
    lost_.insert(node.id);
  }
}

void SimCluster::tick(int64_t ms) {
  now_ms_ += ms;
  feed(Tick{});
}

void SimCluster::one_event() {
  ++events_;
  if (faults_left_ > 0 && draw(30 * std::max(options_.nodes(), 4U)) == 0) return fault();
  if (!coordinator_up_) {
    if (draw(20) == 0) restart_coordinator();
  }
  if (!downs_.empty() && coordinator_up_ && draw(20) == 0)
    return hear_of_down(draw(static_cast<uint32_t>(downs_.size())));
  Node& node = nodes_[draw(options_.nodes())];
  if (!node.daemon) {
    // Comes back after a while; the worker may have trained on meanwhile.
    if (draw(150) == 0) start_daemon(node);
    worker_moves(node);
    return;
  }
  if (!node.connected && coordinator_up_ && draw(3) == 0) {
    node.connected = true;
    NodeUp up;
    up.node = node.id;
    up.session = node.session;
    up.failure_domain = node.id.value;
    up.arena_bytes = uint64_t{1} << 30;
    up.workers = {node.report()};
    node.up.push_back(up);
    for (const train::StepDone& done : node.unsealed) tell(node, WorkerStepDone{node.id, 0, 0, done});
  }
  switch (draw(8)) {
    case 0:
    case 1:
      if (!node.up.empty() && coordinator_up_) {
        const NodeEvent event = node.up.front();
        node.up.pop_front();
        // Who greets anew was down before.
        for (size_t i = downs_.size(); std::holds_alternative<NodeUp>(event) && i-- > 0;)
          if (downs_[i].node == node.id) hear_of_down(i);
        hear(event);
      }
      return;
    case 2:
    case 3:
      if (!node.down.empty()) command(node);
      return;
    case 4:
      return worker_moves(node);
    case 5:
      return capture_moves(node);
    case 6:
      return replication_moves(node);
    default:
      // A node's turn comes as often in a large cluster, by its clock.
      return tick(options_.nodes() <= kFewNodes ? 10 : 50 / options_.nodes());
  }
}

std::string SimCluster::run() {
  const uint64_t most = kMostEvents * std::max(1U, options_.nodes() / kFewNodes + 1);
  while (broken_.empty() && events_ < most) {
    one_event();
    const auto job = jobs_.find(job_.name);
    if (job == jobs_.end()) continue;
    if (job->second.state == JobState::kFailed) {
      if (lost_.size() <= tolerated_) broke("the job failed: " + job->second.detail);
      return broken_;  // more was lost than was promised
    }
    if (job->second.state == JobState::kDone) {
      check_ledger();
      return broken_;
    }
  }
  if (broken_.empty())
    broke(fmt::format("the job is not done after {} events: phase {}, {}", events_,
                      static_cast<int>(coordinator_->phase()), coordinator_->waiting_for()));
  return broken_;
}

}  // namespace holdfast::daemon::sim
