// One node's part in a job: carries out the coordinator's commands and passes on what the workers say.
// Thin on purpose: it decides nothing but what is local (which blocks, which worker to kill). Runs on
// the daemon's event loop.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/coordinator/types.h"
#include "daemon/node/arena_verifier.h"
#include "daemon/node/capture_keeper.h"
#include "daemon/node/node_job.h"
#include "daemon/node/ports.h"
#include "daemon/node/restorer.h"
#include "storage/arena/arena.h"
#include "train/worker/messages.h"

namespace holdfast::daemon {

struct JobAgentOptions {
  NodeId node;
  uint32_t slots = 1;
  uint32_t quiesce_timeout_ms = 1'500;  // half of the coordinator's, so that we answer before it does
  std::string arena_path;
  std::string worker_address;  // for collectives
  uint32_t first_device = 0;   // accelerator of slot 0
};

// What a daemon must know again after a restart; kept in the node's catalog.
struct AgentMemory {
  Epoch epoch;
  std::optional<conf::JobConfig> job;
  Epoch submitted_in;  // of the job
  StateVersion safe;
  std::vector<CommandRestore> views;  // of each slot
};
BOOST_DESCRIBE_STRUCT(AgentMemory, (), (epoch, job, submitted_in, safe, views))

class JobAgent {
 public:
  struct Ports {
    storage::Arena& arena;
    WorkerPort& workers;
    ReplicaPort& replicas;
    LoopPort& loop;
    ReportFn report;
    std::function<void(const AgentMemory&)> remember;
    ArenaHolds* holds = nullptr;
  };
  JobAgent(JobAgentOptions options, Ports ports, const AgentMemory& memory);

  void on_command(const NodeCommand& command);
  void on_worker_up(uint32_t slot, const train::Hello& hello);
  // It computes no more, and may hold its memory for a while.
  void on_worker_dying(uint32_t slot, const std::string& why);
  void on_worker_down(uint32_t slot, const std::string& why);
  void on_worker_message(uint32_t slot, const train::FromWorker& message);
  // The link to a coordinator is up, NodeUp has been said: what an earlier process of it may not have
  // stored is told again.
  void on_connected();

  std::vector<WorkerReport> worker_reports() const;
  Epoch epoch() const { return memory_.epoch; }
  StateVersion safe() const { return memory_.safe; }
  const SnapshotCounters& snapshots() const { return captures_.counters(); }
  const NodeJob* job() const { return job_ ? &*job_ : nullptr; }

 private:
  struct Slot {
    WorkerReport report;
    std::string job_key;  // of the job it was welcomed to
    bool idling = false;  // Quiesce was sent, the answer is awaited
    bool leaving = false;  // its job has ended here, the process has not yet
    bool dying = false;    // its end was reported, the process is not gone yet
    bool fresh = false;   // welcomed, has not answered from the present epoch yet
    // Of a worker that an earlier process of this daemon started nothing is known until it is heard
    // of, idle or ended: until then it may be writing into blocks of the arena.
    bool settled = false;
    std::deque<train::StepDone> unsealed;  // steps above the safe version, oldest first
  };

  void lost(uint32_t slot, const std::string& why);
  void on(const CommandQuiesce& command);
  void on(const CommandRestore& command);
  void on(const CommandGo& command);
  void on(const CommandCapture& command);
  void on(const CommandWatermark& command);
  void on(const CommandStopAt& command);
  void on(const CommandEndJob& command);

  void on(uint32_t slot, const train::Hello& message);
  void on(uint32_t slot, const train::Quiesced& message);
  void on(uint32_t slot, const train::Restored& message);
  void on(uint32_t slot, const train::RestoreFailed& message);
  void on(uint32_t slot, const train::Running& message);
  void on(uint32_t slot, const train::StepDone& message);
  void on(uint32_t slot, const train::Captured& message);
  void on(uint32_t slot, const train::CaptureMissed& message);
  void on(uint32_t slot, const train::Stopped& message);
  void on(uint32_t slot, const train::StopRefused& message);
  void on(uint32_t slot, const train::CommBroken& message);
  void on(uint32_t slot, const train::Fatal& message);

  void set_job(const conf::JobConfig& job, Epoch submitted_in);
  void set_phase(uint32_t slot, train::WorkerPhase phase) { slots_[slot].report.phase = phase; }
  void restore_owners();
  void kill_late_idlers(Epoch epoch);
  void settle(uint32_t slot);
  void answer_when_idle();
  void answer_quiesced();
  void say_quiesced(Epoch epoch, const ArenaVerifier::Contents& contents);
  void catch_up(uint32_t slot);
  bool current(Epoch epoch) const { return epoch == memory_.epoch; }

  const JobAgentOptions options_;
  Ports ports_;
  AgentMemory memory_;
  std::optional<NodeJob> job_;
  CaptureKeeper captures_;
  Restorer restorer_;
  std::vector<Slot> slots_;
  std::vector<storage::ViewBase> history_;
  ArenaVerifier verifier_;
  bool quiescing_ = false;
  // Of the present epoch, for a worker whose connection broke when they were said.
  std::optional<CommandGo> go_;
  std::optional<CommandStopAt> stop_at_;
};

}  // namespace holdfast::daemon
