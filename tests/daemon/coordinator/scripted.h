// A coordinator and the words of its nodes, said by the test one by one. Every worker holds all shards
// at `state_` unless a test says otherwise.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/coordinator/coordinator.h"
#include "train/model/parameter_layout.h"

namespace holdfast::daemon {

class Scripted : public testing::Test {
 protected:
  static conf::JobConfig small_job(uint32_t pipelines, uint32_t stages = 1) {
    conf::JobConfig job;
    job.name = JobId("a");
    job.steps = 1'000;
    job.pipelines = pipelines;
    job.stages = stages;
    job.micro_batches = 2;
    job.model.layers = stages;
    job.model.experts = 2;
    job.model.width = 8;
    job.model.heads = 2;
    job.model.kv_heads = 1;
    job.model.expert_width = 8;
    job.data.path = "text.tokens";
    return job;
  }
  static NodeId node(uint32_t n) { return NodeId("node-" + std::to_string(n)); }

  void feed(const Event& event) {
    Outcome outcome = coordinator_->step(now_ms_, event);
    for (Record& record : outcome.records) {
      if (const auto* job = std::get_if<StoreJob>(&record)) stored_ = job->job;
      if (const auto* row = std::get_if<SealRow>(&record)) rows_.push_back(row->row);
      if (const auto* note = std::get_if<EventRecord>(&record)) notes_.push_back(*note);
    }
    for (auto& command : outcome.commands) commands_.push_back(std::move(command));
  }
  void pass(int64_t ms) {
    for (int64_t until = now_ms_ + ms; now_ms_ < until;) {
      now_ms_ += std::min<int64_t>(100, until - now_ms_);
      feed(Tick{});
    }
  }

  // ---- words
  WorkerReport report(train::WorkerPhase phase, uint64_t step = 0) const {
    return {0, true, coordinator_->epoch(), phase, Step(step), {{state_, all_shards_}}};
  }
  void connect(uint32_t n, std::vector<WorkerReport> workers = {}) {
    NodeUp up;
    up.node = node(n);
    up.session = ++sessions_[n];
    up.failure_domain = domains_.contains(n) ? domains_[n] : up.node.value;
    up.arena_bytes = arenas_.contains(n) ? arenas_[n] : uint64_t{1} << 30;
    up.workers = std::move(workers);
    feed(up);
  }
  void disconnect(uint32_t n) { feed(NodeDown{node(n), sessions_[n], "connection reset"}); }
  void quiesced(uint32_t n, std::vector<HeldShards> arena = {}) {
    feed(NodeQuiesced{node(n), sessions_[n], coordinator_->epoch(),
                      {report(train::WorkerPhase::kIdle)}, std::move(arena), {}});
  }
  void quiesced_without_worker(uint32_t n, std::vector<HeldShards> arena) {
    feed(NodeQuiesced{node(n), sessions_[n], coordinator_->epoch(), {}, std::move(arena), {}});
  }
  void restored(uint32_t n) {
    feed(WorkerRestored{node(n), sessions_[n], 0, coordinator_->epoch(), "address"});
  }
  void restore_failed(uint32_t n, std::vector<uint32_t> shards, uint32_t from, ErrorCode code) {
    feed(WorkerRestoreFailed{node(n), sessions_[n], 0, coordinator_->epoch(), std::move(shards),
                             node(from), {code, "as the test says"}});
  }
  void comm_broken(uint32_t n) {
    feed(WorkerCommBroken{node(n), sessions_[n], 0, coordinator_->epoch(), Step(0),
                          {ErrorCode::kCommSetup, "no connection"}});
  }
  void fatal(uint32_t n, Epoch epoch, ErrorCode code = ErrorCode::kDataMissing) {
    feed(WorkerFatal{node(n), sessions_[n], 0, epoch, {code, "no such file"}});
  }
  void replicated(uint32_t n, const CommandCapture& c) {
    const View& view = *coordinator_->view();
    const StateVersion state =
        c.version == view.base.version ? view.base : StateVersion{c.version, view.epoch};
    feed(WorkerReplicated{node(n), sessions_[n], 0, c.epoch, state,
                          view.members[*lane(n)].holders, c.attempt});
  }
  void stopped(uint32_t n, uint64_t step) {
    feed(WorkerStopped{node(n), sessions_[n], 0, coordinator_->epoch(), Step(step)});
  }
  void step_done(uint32_t n, uint64_t step, double seconds = 0.01) {
    train::StepDone done;
    done.epoch = coordinator_->epoch();
    done.step = Step(step);
    done.lane = *lane(n);
    done.loss = 1;
    done.seconds = seconds;
    const conf::JobConfig& job = coordinator_->active_job()->config;
    if (job.staggered()) {
      const uint32_t stage = coordinator_->view()->members[done.lane].coordinate.stage.value;
      done.of_stage = {stage, job.stages};
      done.loss = stage + 1 == job.stages ? 1 + static_cast<double>(step) : 0;
    }
    feed(WorkerStepDone{node(n), sessions_[n], 0, done});
  }
  void step_done_by_all(uint64_t step, double seconds = 0.01) {
    for (const uint32_t n : members()) step_done(n, step, seconds);
  }

  // ---- from Quiesce to Go
  void quiesced_by(const std::vector<uint32_t>& nodes) {
    for (const uint32_t n : nodes) quiesced(n);
  }
  void restored_by_all() {
    for (const uint32_t n : members()) restored(n);
  }
  // `spare`: nodes without a worker.
  void begin(const conf::JobConfig& job, const std::vector<uint32_t>& spare = {}) {
    const train::ParameterLayout layout(job.model, job.slices());
    all_shards_.resize(layout.shard_count());
    std::iota(all_shards_.begin(), all_shards_.end(), 0U);
    for (uint32_t n = 0; n < job.workers(); ++n) connect(n);
    for (const uint32_t n : spare) connect(n);
    feed(SubmitJob{1, job});
    for (const uint32_t n : spare) quiesced_without_worker(n, {});
    for (uint32_t n = 0; n < job.workers(); ++n) quiesced(n);
    restored_by_all();
    ASSERT_EQ(coordinator_->phase(), Phase::kRunning);
  }

  // ---- what came of it
  std::optional<uint32_t> lane(uint32_t n) const {
    const auto& members = coordinator_->view()->members;
    for (uint32_t lane = 0; lane < members.size(); ++lane)
      if (members[lane].worker.node == node(n)) return lane;
    return std::nullopt;
  }
  std::vector<uint32_t> members() const {
    std::vector<uint32_t> all;
    for (uint32_t n = 0; n < 8; ++n)
      if (coordinator_->view() && lane(n)) all.push_back(n);
    return all;
  }
  template <class Command>
  std::optional<Command> last(uint32_t n) const {
    for (auto it = commands_.rbegin(); it != commands_.rend(); ++it)
      if (it->first == node(n) && std::holds_alternative<Command>(it->second))
        return std::get<Command>(it->second);
    return std::nullopt;
  }
  std::optional<CommandCapture> last_capture_of(uint32_t n, uint64_t version) const {
    for (auto it = commands_.rbegin(); it != commands_.rend(); ++it)
      if (const auto* c = std::get_if<CommandCapture>(&it->second))
        if (it->first == node(n) && c->version == Version(version)) return *c;
    return std::nullopt;
  }
  size_t noted(const std::string& kind) const {
    return static_cast<size_t>(std::count_if(
        notes_.begin(), notes_.end(), [&](const EventRecord& e) { return e.kind == kind; }));
  }

  std::optional<Coordinator> coordinator_{
      std::in_place, CoordinatorOptions{}, 1'000, Epoch{7, 0}, std::vector<JobRecord>{}};
  int64_t now_ms_ = 1'000;
  StateVersion state_;
  std::vector<uint32_t> all_shards_;
  std::map<uint32_t, uint64_t> sessions_;
  std::map<uint32_t, uint64_t> arenas_;      // bytes, where not 1 GiB
  std::map<uint32_t, std::string> domains_;  // where not the node's own
  std::vector<std::pair<NodeId, NodeCommand>> commands_;
  std::vector<EventRecord> notes_;
  std::vector<LedgerRow> rows_;
  JobRecord stored_;
};

}  // namespace holdfast::daemon
