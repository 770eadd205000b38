// The coordinator's words: what nodes tell it (events), what it tells nodes (commands) and what it
// wants kept (records). Plain values; daemon/peers carries them as JSON. The protocol is described in
// docs/coordinator.md.
#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/json.h"
#include "conf/job_config.h"
#include "train/worker/messages.h"

namespace holdfast::daemon {

using train::HeldShards;

struct WorkerId {
  NodeId node;
  uint32_t slot = 0;
  auto operator<=>(const WorkerId&) const = default;
};
BOOST_DESCRIBE_STRUCT(WorkerId, (), (node, slot))

// A worker's place. Lane l of a view is members[l], whatever its stage; members are ordered by
// coordinate: by stage, then by pipeline.
struct Member {
  WorkerId worker;
  Coordinate coordinate;
  std::vector<NodeId> holders;  // the nodes that hold replicas of what this member owns
  bool operator==(const Member&) const = default;
};
BOOST_DESCRIBE_STRUCT(Member, (), (worker, coordinate, holders))

// The numbered membership of a job. Stored (synced) before it is announced.
struct View {
  Epoch epoch;
  JobId job;
  StateVersion base;
  std::vector<Member> members;
  std::vector<uint32_t> owner_lane;  // by flat shard: a lane of the stage that the shard belongs to
  std::string reason;                // one sentence, kept as an event too
  bool operator==(const View&) const = default;
};
BOOST_DESCRIBE_STRUCT(View, (), (epoch, job, base, members, owner_lane, reason))

// ---- events: node -> coordinator ---------------------------------------------------------------
// `session` numbers the life of a daemon process (start time); a message of an older session of its
// node is ignored. `epoch`: a message of an epoch older than the current has no effect.

// The worker in one slot of a node, as its daemon knows it.
struct WorkerReport {
  uint32_t slot = 0;
  bool alive = false;  // connected to its daemon and obeying it
  Epoch epoch;         // of the view it works in
  train::WorkerPhase phase = train::WorkerPhase::kIdle;
  Step step;
  std::vector<HeldShards> held;
};
BOOST_DESCRIBE_STRUCT(WorkerReport, (), (slot, alive, epoch, phase, step, held))

// First message of a session, and again whenever the coordinator's process changed.
struct NodeUp {
  NodeId node;
  uint64_t session = 0;
  std::string failure_domain;
  std::string peer_address;    // host:port of its peer control
  std::string fabric_address;
  uint64_t arena_bytes = 0;
  uint32_t slots = 1;
  std::vector<WorkerReport> workers;
};
BOOST_DESCRIBE_STRUCT(NodeUp, (),
                      (node, session, failure_domain, peer_address, fabric_address, arena_bytes, slots,
                       workers))

// From the peer layer of the coordinator's own daemon: connection reset or heartbeats missed. Only a
// suspicion: its worker may train on.
struct NodeDown {
  NodeId node;
  uint64_t session = 0;
  std::string why;
};
BOOST_DESCRIBE_STRUCT(NodeDown, (), (node, session, why))

// A worker came (alive, kIdle, ready for a view), or ended (pidfd, hang, fatal error).
struct WorkerChanged {
  NodeId node;
  uint64_t session = 0;
  WorkerReport worker;
  std::string why;
};
BOOST_DESCRIBE_STRUCT(WorkerChanged, (), (node, session, worker, why))

// The answer to CommandQuiesce: workers idle in `epoch` (or not alive), arena verified.
struct NodeQuiesced {
  NodeId node;
  uint64_t session = 0;
  Epoch epoch;
  std::vector<WorkerReport> workers;
  std::vector<HeldShards> arena;
  std::vector<std::string> damaged;  // blocks whose checksum was wrong, in words; they are free again
};
BOOST_DESCRIBE_STRUCT(NodeQuiesced, (), (node, session, epoch, workers, arena, damaged))

struct WorkerRestored {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  std::string comm_address;
};
BOOST_DESCRIBE_STRUCT(WorkerRestored, (), (node, session, slot, epoch, comm_address))

// Its first step begins: how long it took to get there.
struct WorkerRunning {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  train::RestoreTimes times;
};
BOOST_DESCRIBE_STRUCT(WorkerRunning, (), (node, session, slot, epoch, times))

// These shards could not be had from `from` (bad block, lost peer): decide again, from elsewhere if
// there is a choice. No shards: the worker itself could not prepare.
struct WorkerRestoreFailed {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  std::vector<uint32_t> shards;
  NodeId from;
  Error error;
};
BOOST_DESCRIBE_STRUCT(WorkerRestoreFailed, (),
                      (node, session, slot, epoch, shards, from, error))

struct WorkerStepDone {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  train::StepDone step;
};
BOOST_DESCRIBE_STRUCT(WorkerStepDone, (), (node, session, slot, step))

// Everything that worker owns at `state` is published in its own arena and committed by `holders`.
struct WorkerReplicated {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  StateVersion state;
  std::vector<NodeId> holders;
  uint64_t attempt = 0;  // of the CommandCapture that this answers
};
BOOST_DESCRIBE_STRUCT(WorkerReplicated, (), (node, session, slot, epoch, state, holders, attempt))

struct WorkerCaptureMissed {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  Version version;
  std::string why;
  uint64_t attempt = 0;
  bool too_late = false;  // the worker had overwritten that version before it heard of it
};
BOOST_DESCRIBE_STRUCT(WorkerCaptureMissed, (),
                      (node, session, slot, epoch, version, why, attempt, too_late))

struct WorkerStopped {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  Step step;
};
BOOST_DESCRIBE_STRUCT(WorkerStopped, (), (node, session, slot, epoch, step))

struct WorkerStopRefused {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  Step begun;
};
BOOST_DESCRIBE_STRUCT(WorkerStopRefused, (), (node, session, slot, epoch, begun))

struct WorkerCommBroken {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  Step step;
  Error error;
};
BOOST_DESCRIBE_STRUCT(WorkerCommBroken, (), (node, session, slot, epoch, step, error))

struct WorkerFatal {
  NodeId node;
  uint64_t session = 0;
  uint32_t slot = 0;
  Epoch epoch;
  Error error;
};
BOOST_DESCRIBE_STRUCT(WorkerFatal, (), (node, session, slot, epoch, error))

// From people, through the control socket. `request` is echoed in the RequestDone record.
struct SubmitJob {
  uint64_t request = 0;
  conf::JobConfig job;
};
BOOST_DESCRIBE_STRUCT(SubmitJob, (), (request, job))
struct StopJob {  // at a step boundary, with a safe snapshot of that step
  uint64_t request = 0;
  JobId job;
};
BOOST_DESCRIBE_STRUCT(StopJob, (), (request, job))
struct ResumeJob {  // a stopped or failed job, from the newest state that can be had
  uint64_t request = 0;
  JobId job;
};
BOOST_DESCRIBE_STRUCT(ResumeJob, (), (request, job))
// Forgets a job that is not under way; its name may be used again. Its blocks in arenas are freed when
// the next job starts.
struct RemoveJob {
  uint64_t request = 0;
  JobId job;
};
BOOST_DESCRIBE_STRUCT(RemoveJob, (), (request, job))

struct Tick {};  // at least every 100 ms
BOOST_DESCRIBE_STRUCT(Tick, (), ())

using NodeEvent =
    std::variant<NodeUp, WorkerChanged, NodeQuiesced, WorkerRestored, WorkerRestoreFailed,
                 WorkerStepDone, WorkerReplicated, WorkerCaptureMissed, WorkerStopped,
                 WorkerStopRefused, WorkerCommBroken, WorkerFatal, WorkerRunning>;

// ---- commands: coordinator -> node -------------------------------------------------------------

// Make every worker of the job idle in this epoch (start missing ones), then answer NodeQuiesced
// within quiesce_timeout_ms; a worker that cannot idle in time is killed and reported not alive. A
// worker that is only starting is reported not alive; it comes as WorkerChanged later.
struct CommandQuiesce {
  Epoch epoch;
  conf::JobConfig job;
  Epoch submitted_in;  // two jobs of one name are told apart by it
  StateVersion safe;   // the arena keeps this state and everything newer that is not void
};
BOOST_DESCRIBE_STRUCT(CommandQuiesce, (), (epoch, job, submitted_in, safe))

enum class ShardSource : uint8_t { kBuffer, kArena, kReplica, kInitial };
BOOST_DESCRIBE_ENUM(ShardSource, kBuffer, kArena, kReplica, kInitial)

struct SourcedShard {
  uint32_t shard = 0;
  ShardSource source = ShardSource::kInitial;
  NodeId from;  // kReplica only: fetch from that node's arena
};
BOOST_DESCRIBE_STRUCT(SourcedShard, (), (shard, source, from))

// How nodes reach each other: peer control (host:port) and fabric.
struct NodeAddress {
  NodeId node;
  std::string peer;
  std::string fabric;
};
BOOST_DESCRIBE_STRUCT(NodeAddress, (), (node, peer, fabric))

// Restore the worker in `slot` as lane `lane` of `view`; fetch replicas into the own arena first.
struct CommandRestore {
  uint32_t slot = 0;
  uint32_t lane = 0;
  View view;
  std::vector<SourcedShard> owned;
  std::vector<NodeAddress> nodes;  // every node that is up
};
BOOST_DESCRIBE_STRUCT(CommandRestore, (), (slot, lane, view, owned, nodes))

struct CommandGo {
  Epoch epoch;
  std::vector<std::string> comm_addresses;  // by lane
};
BOOST_DESCRIBE_STRUCT(CommandGo, (), (epoch, comm_addresses))

struct CommandCapture {
  Epoch epoch;
  Version version;
  uint64_t attempt = 0;  // echoed: a version may be named again after it was abandoned
};
BOOST_DESCRIBE_STRUCT(CommandCapture, (), (epoch, version, attempt))

// `safe` is the safe version now: older blocks may go. `abandoned`: captures that will never be.
struct CommandWatermark {
  Epoch epoch;
  StateVersion safe;
  std::vector<Version> abandoned;
};
BOOST_DESCRIBE_STRUCT(CommandWatermark, (), (epoch, safe, abandoned))

struct CommandStopAt {
  Epoch epoch;
  std::optional<Step> step;
};
BOOST_DESCRIBE_STRUCT(CommandStopAt, (), (epoch, step))

// End the workers of the job, or of whatever job the node has. The arena keeps its blocks: a job that
// was stopped may be resumed.
struct CommandEndJob {
  Epoch epoch;
  std::optional<JobId> job;  // nullopt: any
  std::string why;
};
BOOST_DESCRIBE_STRUCT(CommandEndJob, (), (epoch, job, why))

using NodeCommand = std::variant<CommandQuiesce, CommandRestore, CommandGo, CommandCapture,
                                 CommandWatermark, CommandStopAt, CommandEndJob>;

// ---- records: what the coordinator wants kept or told --------------------------------------------

enum class JobState : uint8_t { kStarting, kRunning, kRecovering, kStopping, kStopped, kDone, kFailed };
BOOST_DESCRIBE_ENUM(JobState, kStarting, kRunning, kRecovering, kStopping, kStopped, kDone, kFailed)

struct JobRecord {
  conf::JobConfig config;
  Epoch submitted_in;            // tells it apart from an earlier job of that name
  JobState state = JobState::kStarting;
  std::string detail;            // why, for people
  uint64_t steps_done = 0;       // newest version made; stored without snapshots: newest sealed
  StateVersion safe;             // newest safe version
  std::vector<View> history;     // every view of this job: base and epoch decide what is void
  std::optional<double> train_loss;
  std::optional<double> held_out_loss;
  bool state_lost = false;       // failed because no complete state could be had any more
};
BOOST_DESCRIBE_STRUCT(JobRecord, (),
                      (config, submitted_in, state, detail, steps_done, safe, history, train_loss, held_out_loss,
                       state_lost))

// One sealed ledger row: these micro-batches of `step` contributed, at one stage, to the version made
// in `made`.
struct LedgerRow {
  Step step;
  Epoch made;
  uint32_t lane = 0;
  StageIndex stage;  // of that lane: every stage runs every micro-batch of a step once
  WorkerId worker;
  std::vector<uint32_t> micro_batches;
  // Absent: the report was lost and the row comes from the plan, or its stage does not know the loss.
  std::optional<double> loss;
};
BOOST_DESCRIBE_STRUCT(LedgerRow, (), (step, made, lane, stage, worker, micro_batches, loss))

// For people and tests. Kinds are listed in docs/events.md.
struct EventRecord {
  uint64_t sequence = 0;  // filled by whoever stores it
  int64_t wall_ms = 0;
  std::string kind;  // "view", "worker_lost", "node_suspected", "protected", "first_step", ...
  std::string job;
  Epoch epoch;
  std::string text;                                           // one sentence
  std::vector<std::pair<std::string, std::string>> details;   // machine-readable
};
BOOST_DESCRIBE_STRUCT(EventRecord, (), (sequence, wall_ms, kind, job, epoch, text, details))

}  // namespace holdfast::daemon
