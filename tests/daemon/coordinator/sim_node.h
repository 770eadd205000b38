// A node of the simulated cluster: daemon, worker and arena as far as the coordinator can tell. State
// has contents here: a number for the whole model that every shard carries, so that two histories
// that were mixed are noticed. No clock, no thread; SimCluster decides what happens when.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "daemon/coordinator/coordinator.h"
#include "storage/replica/history.h"

namespace holdfast::daemon::sim {

using Content = uint64_t;  // names one state of the whole model, and by it all states before

struct Faults {
  bool no_abort_word = false;  // a worker whose reduction was aborted makes a version of it
  bool no_data_flow = false;   // staggered stages do without what others send them
};

struct Block {
  uint32_t shard = 0;
  StateVersion state;
  Content content = 0;
  bool damaged = false;
};

struct Worker {
  bool alive = false;
  Epoch epoch;
  train::WorkerPhase phase = train::WorkerPhase::kIdle;
  Step step;
  uint32_t lane = 0;
  // The two buffers: state -> shard -> content.
  std::map<StateVersion, std::map<uint32_t, Content>> buffers;
  std::vector<uint32_t> owned;
  bool entered = false;  // the reduction of `step`
  bool broken_told = false;
  std::optional<Step> stop_at;
  std::deque<Version> captures;  // ordered, in the order of naming; it never hears that one is over
};

// A capture on its way to its holders.
struct Replication {
  Epoch epoch;
  StateVersion state;
  uint64_t attempt = 0;
  std::vector<NodeId> left;
  std::vector<NodeId> done;
};

struct Node {
  NodeId id;
  bool daemon = false;
  uint64_t session = 0;
  bool connected = false;  // NodeUp was sent to the present coordinator process
  Epoch epoch;             // newest seen
  bool quiescing = false;
  StateVersion safe;
  std::vector<storage::ViewBase> history;
  std::vector<NodeId> holders;
  Worker worker;
  std::vector<Block> arena;
  std::deque<Replication> replications;
  std::map<Version, uint64_t> granted;  // ordered of the worker -> the newest attempt
  std::vector<train::StepDone> unsealed;  // steps above the safe version, told to every coordinator
  std::deque<NodeEvent> up;      // to the coordinator
  std::deque<NodeCommand> down;  // from it

  bool has(uint32_t shard, const StateVersion& state) const;
  std::vector<HeldShards> held_by_worker() const;
  std::vector<HeldShards> held_by_arena() const;  // damaged blocks do not verify
  WorkerReport report() const;
};

}  // namespace holdfast::daemon::sim
