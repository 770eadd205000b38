// The coordinator's insides: one class, in parts. machine.cpp takes events and nodes in, failures.cpp
// counts who fails views, gathering.cpp ends a view and decides the next, running.cpp watches a view
// that runs, planned.cpp changes it at a step boundary, taking_over.cpp meets a view that runs already,
// requests.cpp answers people and moves jobs through their states, what_if.cpp asks a copy what would be,
// recovery.cpp holds what was foretold beside what came.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/coordinator/captures.h"
#include "daemon/coordinator/coordinator.h"
#include "daemon/coordinator/decide.h"
#include "daemon/coordinator/known_arenas.h"
#include "daemon/coordinator/ledger.h"
#include "daemon/coordinator/prediction.h"
#include "train/model/parameter_layout.h"

namespace holdfast::daemon {

class Coordinator::Machine {
 public:
  Machine(CoordinatorOptions options, int64_t now_ms, Epoch current, std::vector<JobRecord> jobs);
  Outcome step(int64_t now_ms, const Event& event);

  Epoch epoch() const { return epoch_; }
  Phase phase() const { return phase_; }
  const std::string& waiting_for() const { return waiting_for_; }
  const std::map<NodeId, NodeStatus>& nodes() const { return nodes_; }
  const std::map<JobId, JobRecord>& jobs() const { return jobs_; }
  const JobRecord* active_job() const { return active_ ? &jobs_.at(*active_) : nullptr; }
  const View* view() const { return view_ ? &*view_ : nullptr; }
  bool is_protected() const { return protected_; }
  StateVersion safe() const { return active_ ? jobs_.at(*active_).safe : StateVersion{}; }
  Version newest_version() const { return newest_; }
  const std::optional<train::StepDone>& last_step() const { return last_step_; }
  const CoordinatorCounters& counters() const { return counters_; }
  Result<WhatIf> what_if(int64_t now_ms, const std::vector<NodeId>& failed) const;

 private:
  // ---- machine.cpp: events
  void on(const NodeUp& event);
  void on(const NodeDown& event);
  void on(const WorkerChanged& event);
  void on(const NodeQuiesced& event);
  void on(const WorkerRestored& event);

  // The node if the message is of its present session, nullptr (and counted) otherwise.
  NodeStatus* present(const NodeId& node, uint64_t session);
  // As present(), and of the current epoch.
  NodeStatus* current(const NodeId& node, uint64_t session, Epoch epoch);
  bool keep_report(NodeStatus& node, const WorkerReport& report);
  std::optional<uint32_t> lane_of(const NodeId& node) const;
  std::optional<uint32_t> lane_of(const NodeId& node, uint32_t slot) const;
  bool is_holder(const NodeId& node) const;
  bool is_up(const NodeId& node) const;

  // ---- failures.cpp
  void on(const WorkerRestoreFailed& event);
  void on(const WorkerCommBroken& event);
  void on(const WorkerFatal& event);
  void bench(const WorkerId& worker, const std::string& why);
  bool nobody_can_open() const;
  void count_failed_view();
  bool all_of_workers(const std::function<bool(const WorkerId&)>& holds) const;
  void look_for_room(const NodeStatus& node);
  std::string why_unable() const;

  // ---- gathering.cpp
  void change_view(const std::string& why);
  void ask_to_quiesce(const NodeId& node);
  void consider_deciding();
  int64_t quiesce_limit_ms() const;
  int64_t restore_limit_ms(const Decision& decision) const;
  std::optional<std::string> wait_for_workers(size_t ready);
  std::optional<std::string> wait_for_copies(const StateVersion& base);
  std::vector<WorkerId> ready_workers() const;
  Holdings collect_holdings() const;
  DecideInput decide_input(std::vector<WorkerId> workers) const;
  void announce(Decision decision);
  void note_places(const std::vector<Member>& before, const Decision& decision);
  void restored_by_all();

  // ---- taking_over.cpp
  void take_over();
  void member_is_back(const NodeStatus& node);

  // ---- running.cpp
  void on(const Tick& event);
  void on(const WorkerRunning& event);
  void on(const WorkerStepDone& event);
  void on(const WorkerReplicated& event);
  void on(const WorkerCaptureMissed& event);
  void note_loss(const train::StepDone& done);
  int64_t patience_ms(int64_t least_ms, double steps) const;
  int64_t capture_ms() const;
  void watch();
  void watch_captures();
  void watch_suspects();
  void watch_holders();
  void name_captures();
  void capture(const Captures::Named& named);
  void abandon(Version version);
  void seal(Version version);
  bool enough_holders() const;
  bool all_are_up() const;
  void consider_protected();
  void became_safe(Version version, const std::vector<Version>& abandoned);

  // ---- planned.cpp
  void on(const WorkerStopped& event);
  void on(const WorkerStopRefused& event);
  void watch_returns();
  void watch_planned();
  void propose_stop(const std::string& why);
  void plan_stop(Step step, const std::string& why);
  void lane_stopped(uint32_t lane, Step step);
  void stopped_by_all();
  void give_up_planned(const std::string& why);

  // ---- requests.cpp
  void on(const SubmitJob& event);
  void on(const StopJob& event);
  void on(const ResumeJob& event);
  void on(const RemoveJob& event);
  void finish_job(JobState state, const std::string& detail);
  Status check_submission(const conf::JobConfig& job) const;
  void start(const JobId& job);
  void store_job(bool sync);
  void answer(uint64_t request, Status status);

  // ---- what_if.cpp
  struct Losses {
    std::set<NodeId> nodes;      // with their arenas
    std::set<WorkerId> workers;  // of nodes that live
    bool empty() const { return nodes.empty() && workers.empty(); }
  };
  WhatIf foretell(int64_t now_ms, const Losses& losses) const;
  bool concerned(const Losses& losses) const;
  void suffer(const Losses& losses);
  std::map<NodeId, NodeQuiesced> expected_answers() const;
  bool can_have(const StateVersion& state) const;
  void say_what_follows(const Machine& after, WhatIf& answer) const;
  Assumed assumed() const;

  // ---- recovery.cpp
  bool foretold_beside_events() const;
  void recovery_begins();
  void recovery_decided(const Decision& decision);
  void recovery_ends();
  void note_recovered(const RecoveryTook& took);
  void note_pace();
  void arenas_begin(const Decision& decision);
  void arenas_taken_over();
  void arenas_replicated(uint32_t lane, const StateVersion& state);
  void arenas_watermark(const std::vector<Version>& abandoned);
  int64_t first_sign_ms() const;

  // ---- small tools
  JobRecord& job() { return jobs_.at(*active_); }
  const JobRecord& job() const { return jobs_.at(*active_); }
  bool wants_captures() const { return job().config.snapshot.policy != "none"; }
  void send(const NodeId& node, NodeCommand command);
  void send_members(const NodeCommand& command);
  void note(const std::string& kind, const std::string& text,
            std::vector<std::pair<std::string, std::string>> details = {});
  void enter(Phase phase);

  const CoordinatorOptions options_;
  int64_t now_ms_;
  Outcome out_;

  Epoch epoch_;
  std::map<NodeId, NodeStatus> nodes_;
  std::map<JobId, JobRecord> jobs_;
  std::optional<JobId> active_;
  CoordinatorCounters counters_;

  Phase phase_ = Phase::kIdle;
  int64_t phase_since_ms_ = 0;
  std::string waiting_for_;

  // Of the active job.
  JobShards shards_;
  std::optional<Ledger> ledger_;
  std::map<WorkerId, uint32_t> failed_views_;  // in a row, without a step
  std::map<WorkerId, int64_t> benched_until_ms_;
  std::map<WorkerId, uint32_t> benched_before_;  // how often, since it had a part in a step
  std::set<WorkerId> short_of_memory_;         // before the job's first step
  std::map<WorkerId, std::string> unable_;     // could not open the job, and why
  std::map<NodeId, std::string> cramped_;      // have an arena too small for the job, and how small

  // Gathering.
  std::set<NodeId> awaited_;             // asked to quiesce, not answered
  std::map<NodeId, NodeQuiesced> answers_;
  std::set<NodeId> expected_;            // of the last view, not yet heard of by this process
  std::set<std::pair<NodeId, NodeId>> unreached_;  // (fetcher, source) that failed since a view ran
  int64_t below_safe_since_ms_ = -1;     // since when only a base below the safe version can be had
  bool told_waiting_ = false;            // that fewer workers live than there are stages

  // Restoring and running.
  std::optional<View> view_;
  int64_t restore_limit_ms_ = 0;              // of the view that is being restored
  std::map<uint32_t, std::string> restored_;  // lane -> communicator address
  std::map<uint32_t, train::RestoreTimes> started_;  // lane -> how long it took to get there
  std::set<uint32_t> taken_over_;             // lanes that reported to this process
  std::map<uint32_t, Step> stopped_unheard_;  // of these, those that stand, by step
  std::set<WorkerId> blamed_;                 // could not restore, and no copy is the reason
  std::set<uint32_t> broken_lanes_;           // said that a collective failed
  Captures captures_;
  bool settled_ = false;    // a version of this view is safe: planned changes may come
  bool protected_ = false;  // and it is held by as many nodes as the job asks for
  Version newest_;                            // made, or the base
  uint64_t steps_back_ = 0;                   // finished steps that the open view does again
  std::optional<train::StepDone> last_step_;  // of the view
  std::optional<Step> loss_of_;               // the newest step of the view whose loss is known
  bool made_a_step_ = false;                  // the job, ever
  int64_t last_progress_ms_ = 0;
  int64_t broken_since_ms_ = -1;              // a collective failed
  std::string broken_why_;

  // A planned change: everybody stands before step `step`.
  struct Planned {
    Step step;
    std::string why;
    Version newest;          // when it was proposed
    int64_t since_ms = 0;
    int64_t stand_ms = -1;   // since when all stand
    std::set<uint32_t> stopped;
  };
  std::optional<Planned> planned_;
  uint32_t planned_given_up_ = 0;      // in this view
  std::string moves_later_;            // why workers should change places in a planned change
  train::LanesByStage moves_proposed_for_;  // the last such change found these lanes
  int64_t planned_not_before_ms_ = 0;
  int64_t stopping_since_ms_ = -1;  // a stop was requested
  std::set<NodeId> considered_;     // nodes that were there when the view's holders were chosen
  uint32_t end_attempts_ = 0;  // at keeping the last version

  // For predictions; nothing is decided from these.
  KnownArenas arenas_;         // while a view runs
  bool arenas_known_ = false;  // a process that is new to a view learns it with the next safe version
  Measured measured_;
  bool is_asked_ = false;      // a copy that shows what would be
  // From the end of a view to the first step of the next.
  struct Recovery {
    std::vector<Member> members;            // of the view that ended; none: no view ran
    std::shared_ptr<const Machine> before;  // as it ended, to foretell from; nullptr: it cannot be
    int64_t sign_ms = 0;                    // of the failure
    int64_t quiesce_ms = 0;
    int64_t decided_ms = 0;
    int64_t go_ms = 0;
    uint32_t views = 1;    // it took so many
    bool waited = false;   // for workers or copies
    Losses losses;
    RestoreLoad load;
    std::optional<double> connect_seconds;
    std::optional<WhatIf> foretold;
  };
  std::optional<Recovery> recovery_;
  std::optional<Pace> pace_foretold_;  // of the open view, until enough steps tell
};

}  // namespace holdfast::daemon
