// A cluster in one thread: a coordinator with its record store, and nodes whose messages arrive in
// order but at any time. Everything that happens is drawn from one seed. The promises are checked
// after every event.
#pragma once

#include <random>
#include <set>
#include <string>
#include <tuple>

#include "daemon/coordinator/members.h"
#include "tests/daemon/coordinator/sim_node.h"

namespace holdfast::daemon::sim {

struct WalkOptions {
  uint64_t seed = 1;
  uint32_t pipelines = 4;
  uint32_t stages = 1;
  uint32_t spares = 0;  // nodes beyond pipelines * stages
  uint32_t replicas = 1;
  uint32_t steps = 12;
  uint32_t faults = 6;  // at most; then the walk must end with the job done
  uint32_t every = 1;
  bool staggered = false;  // stages do not wait for each other
  Faults take_out = {};
  uint32_t nodes() const { return pipelines * stages + spares; }
  CoordinatorOptions coordinator = {};
};

// A question, and what really came of it.
struct Asked {
  std::string outcome;  // foretold; empty: there was nothing to ask
  std::string differs;  // what came otherwise; empty: nothing
  // What late captures of an abandoned version left counts for nothing until nodes say that they have it.
  bool better = false;  // a newer base came than was foretold, and captures had been abandoned
  bool moved = false;   // between stages
  uint64_t bytes_moved = 0;
  uint64_t steps_twice = 0;
};

class SimCluster {
 public:
  explicit SimCluster(WalkOptions options);

  // Runs to the end; empty, or which promise was broken and how.
  std::string run();
  // Lives on for so many events, asks what would be if that many nodes died with their memory, has them
  // die, and compares. From the question on a copy of the coordinator that was not asked must do the same.
  Asked ask_and_lose(uint32_t events, uint32_t lost);
  uint64_t events() const { return events_; }
  uint64_t views() const { return views_; }
  uint64_t fenced() const { return coordinator_->counters().events_fenced; }
  uint64_t rows() const { return ledger_.size(); }
  uint64_t older_bases() const { return older_bases_; }  // that were chosen though there was a newer
  uint64_t apart() const { return apart_; }  // lanes that still worked on a step when others had made it
  uint64_t moved() const { return moved_; }  // workers that took a place of another stage

 private:
  // sim_cluster.cpp
  void one_event();
  void fault();
  void stage_fault();
  void feed(const Event& event);
  void hear(const NodeEvent& event);
  void hear_of_down(size_t index);
  bool knows(const Node& node) const;
  void apply(Outcome outcome);
  void apply_record(const Record& record);
  void restart_coordinator();
  void tick(int64_t ms);
  void broke(const std::string& promise);
  uint32_t draw(uint32_t below) { return static_cast<uint32_t>(random_() % below); }

  // sim_questions.cpp
  Outcome decided(const Event& event);
  bool settle();
  bool settle_node(Node& node);
  void lose(const std::set<NodeId>& nodes);
  std::string came_otherwise(const WhatIf& foretold) const;

  // sim_checks.cpp
  void check_places(const View& view, const std::vector<Member>& before);
  void check_moves(const View& view, const std::vector<Member>& before);
  void check_view_started(Epoch epoch);
  void check_common_version(Epoch epoch);
  void check_step(Step step, Epoch made);
  void check_ledger();
  std::vector<uint32_t> micro_batches_of(const View& view, uint32_t lane) const;

  // sim_actions.cpp: what nodes do
  void start_daemon(Node& node);
  void kill_daemon(Node& node);
  void kill_worker(Node& node, bool noticed);
  void command(Node& node);
  void on(Node& node, const CommandQuiesce& c);
  void on(Node& node, const CommandRestore& c);
  void on(Node& node, const CommandGo& c);
  void on(Node& node, const CommandCapture& c);
  void on(Node& node, const CommandWatermark& c);
  void on(Node& node, const CommandStopAt& c);
  void on(Node& node, const CommandEndJob& c);
  void worker_moves(Node& node);
  void worker_steps(Node& node);
  void finish_step(Node& node, Content content);
  bool may_finish(const Worker& worker) const;
  void reduce(const Worker& worker);
  StageIndex stage_of(const Worker& worker) const {
    return announced_.at(worker.epoch).members[worker.lane].coordinate.stage;
  }
  void capture_moves(Node& node);
  void replication_moves(Node& node);
  void quiesce_worker(Node& node);
  void restore_fails(Node& node, const SourcedShard& shard, ErrorCode code);
  void tell(Node& node, NodeEvent event);
  bool group_is_whole(Epoch epoch) const;
  Node* find(const NodeId& id);
  const Worker& worker_of(const Member& member) const;

  const WalkOptions options_;
  std::mt19937_64 random_;
  conf::JobConfig job_;
  std::vector<Node> nodes_;
  std::optional<Coordinator> coordinator_;
  int64_t now_ms_ = 1'000'000;  // a machine that has been up for a while
  uint64_t next_session_ = 1;
  uint64_t events_ = 0;
  uint64_t views_ = 0;
  uint64_t older_bases_ = 0;
  uint32_t faults_left_ = 0;
  std::string broken_;
  bool coordinator_up_ = true;
  std::vector<NodeDown> downs_;  // connections that ended, not yet noticed

  // The record store.
  Epoch epoch_;
  std::map<JobId, JobRecord> jobs_;
  std::map<std::pair<Step, uint32_t>, LedgerRow> ledger_;

  // What really happened: content -> (the content before it, made in).
  std::map<Content, std::pair<Content, Epoch>> lineage_;
  Content next_content_ = 1;
  std::map<std::pair<Epoch, Step>, Content> results_;  // of completed reductions
  std::set<std::tuple<Epoch, Step, StageIndex>> reduced_;
  std::set<NodeId> lost_;  // arenas out of reach since the last `protected`
  uint32_t tolerated_ = 0;  // how many of them no shard may be lost to
  std::map<Epoch, View> announced_;
  JobShards shards_;
  uint64_t moved_ = 0;
  uint64_t apart_ = 0;
  std::set<Epoch> started_;

  std::optional<Coordinator> twin_;  // was not asked
  std::map<std::string, std::string> last_view_;  // details of the newest event "view"
};

}  // namespace holdfast::daemon::sim
