// The coordinator: a pure state machine that decides views. Events in, commands and records out; no
// clock, no thread, no I/O. The protocol and its reasons are docs/coordinator.md.
//
// Whoever runs it must, for every Outcome, in this order: store the records (StoreEpoch by
// compare-and-swap and synced; StoreJob synced when `sync` is set), and only then send the commands,
// in order for each node. When StoreEpoch meets another epoch than `expected`, this process is no
// longer the coordinator: nothing of the outcome may be sent.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "daemon/coordinator/foretold.h"
#include "daemon/coordinator/types.h"

namespace holdfast::daemon {

// What a slow network brings, for limits of waits.
inline constexpr uint64_t kSlowBytesPerMs = 100'000;

struct CoordinatorOptions {
  int64_t daemon_grace_ms = 10'000;     // a suspected node whose worker trains on is evicted after this
  int64_t quiesce_timeout_ms = 5'000;   // a node that has not answered Quiesce by then is down
  int64_t restore_timeout_ms = 30'000;  // a view that is not restored by then is decided again
  int64_t arena_wait_ms = 20'000;       // wait for nodes that may hold better, before going below safe
  int64_t start_timeout_ms = 20'000;    // then a job starts with fewer workers than it wants
  int64_t cause_wait_ms = 300;          // between a broken collective and a view change with everybody
  int64_t steps_stopped_ms = 2'000;     // no step for max(this, 5 typical steps): suspects are evicted
  int64_t stall_timeout_ms = 300'000;   // no step for max(this, 20 typical steps): a view change
  int64_t planned_timeout_ms = 30'000;  // a planned change not reached by then is given up
  int64_t capture_timeout_ms = 60'000;  // a capture not replicated by then is abandoned
  int64_t bench_ms = 30'000;            // a worker that keeps failing views stays out this long
  uint32_t view_failures_before_bench = 3;
  double fetch_bytes_per_second = 1e9;  // taken for what a node brings from others in a restore

  // For predictions only.
  NodeId self;            // the node that this runs on
  int64_t silent_ms = 0;  // a node that says nothing for so long is suspected

  // For the random walk only: each takes one safeguard out, and the walk must notice.
  bool test_ignore_made = false;      // versions are told apart by their number alone
  bool test_skip_protection = false;  // a view's base counts as safe before it is replicated
  bool test_ignore_stage = false;     // any lane may own any shard
  bool test_ignore_epoch = false;     // what was sent in an older epoch counts
};

using Event =
    std::variant<NodeUp, WorkerChanged, NodeQuiesced, WorkerRestored, WorkerRestoreFailed,
                 WorkerStepDone, WorkerReplicated, WorkerCaptureMissed, WorkerStopped,
                 WorkerStopRefused, WorkerCommBroken, WorkerFatal, WorkerRunning, NodeDown,
                 SubmitJob, StopJob, ResumeJob, RemoveJob, Tick>;
Event to_event(NodeEvent event);

// ---- records ------------------------------------------------------------------------------------

struct StoreEpoch {  // by compare-and-swap, synced
  Epoch expected;
  Epoch next;
};
struct StoreJob {
  JobRecord job;
  bool sync = true;  // false: only the safe version moved; losing that is harmless
};
// A LedgerRow record is a sealed row; it may come twice with the same (step, lane): the later replaces.
// Sealed rows of these steps and later were rolled back (below the safe version): remove them.
struct VoidLedger {
  JobId job;
  Step from;
};
// The job and its ledger are forgotten.
struct DropJob {
  JobId job;
};
// A request was accepted or refused; acceptance of StopJob means that the job will stop.
struct RequestDone {
  uint64_t request = 0;
  Status status;
};
struct SealRow {
  JobId job;
  LedgerRow row;
};
using Record = std::variant<StoreEpoch, StoreJob, SealRow, VoidLedger, DropJob, EventRecord,
                            RequestDone>;

struct Outcome {
  std::vector<Record> records;                               // first these
  std::vector<std::pair<NodeId, NodeCommand>> commands;      // then these
};

// ---- what can be asked --------------------------------------------------------------------------

enum class NodeState : uint8_t { kUp, kSuspected, kDown };
BOOST_DESCRIBE_ENUM(NodeState, kUp, kSuspected, kDown)

struct NodeStatus {
  NodeId node;
  uint64_t session = 0;
  NodeState state = NodeState::kDown;
  std::string why;  // suspected or down: what was seen
  int64_t since_ms = 0;
  std::string failure_domain;
  std::string peer_address;
  std::string fabric_address;
  uint64_t arena_bytes = 0;
  uint32_t slots = 1;
  std::vector<WorkerReport> workers;  // the newest report of each slot
};

enum class Phase : uint8_t {
  kIdle,        // no job
  kGathering,   // quiesce sent: answers, workers or better arenas are awaited
  kRestoring,   // the view is stored and announced
  kRunning,
  kTakingOver,  // this process is new; the view runs, its members have not all reported yet
};
BOOST_DESCRIBE_ENUM(Phase, kIdle, kGathering, kRestoring, kRunning, kTakingOver)

struct CoordinatorCounters {
  uint64_t events_fenced = 0;  // of an old epoch or session: without effect
  uint64_t views = 0;
  uint64_t captures_named = 0;
  uint64_t captures_safe = 0;
  uint64_t captures_abandoned = 0;
  uint64_t rows_sealed = 0;
  uint64_t rows_voided = 0;
  uint64_t rows_inferred = 0;  // of versions that exist though a lane's report was lost with its node
};

class Coordinator {
 public:
  // `current`: the stored epoch. `jobs`: every stored job; at most one of them is active (starting,
  // running, recovering or stopping), its running view is taken over.
  // `now_ms`: the time of the start, from which the wait for the members of that view is counted.
  Coordinator(CoordinatorOptions options, int64_t now_ms, Epoch current,
              std::vector<JobRecord> jobs);
  ~Coordinator();
  Coordinator(Coordinator&&) noexcept;
  Coordinator& operator=(Coordinator&&) noexcept;

  // `now_ms` is monotonic and never goes back.
  [[nodiscard]] Outcome step(int64_t now_ms, const Event& event);

  Epoch epoch() const;
  Phase phase() const;
  const std::string& waiting_for() const;  // why nothing moves, for people; empty when nothing is awaited
  const std::map<NodeId, NodeStatus>& nodes() const;
  const std::map<JobId, JobRecord>& jobs() const;
  const JobRecord* active_job() const;  // nullptr: none
  const View* view() const;  // of the active job, restoring or running; nullptr otherwise
  bool is_protected() const;
  StateVersion safe() const;                        // of the active job
  Version newest_version() const;                   // made in this view, or its base
  const std::optional<train::StepDone>& last_step() const;  // the newest reported
  const CoordinatorCounters& counters() const;

  // What would follow if these nodes died now, with what they hold: the decision itself, made by a copy.
  // As costly as that. kNotFound: of these names there is no node; kJobState: no job trains just now;
  // kUsage: none is named.
  Result<WhatIf> what_if(int64_t now_ms, const std::vector<NodeId>& failed) const;
  // Whole and apart: what it is told or asked changes nothing here.
  Coordinator copy() const;

 private:
  class Machine;
  explicit Coordinator(std::unique_ptr<Machine> machine);
  std::unique_ptr<Machine> machine_;
};

}  // namespace holdfast::daemon
