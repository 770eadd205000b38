// What a worker and its daemon say to each other over the unix socket <state_dir>/worker.sock. The
// spec is docs/wire.md. Frames: 4 bytes length (little endian), then JSON
// {"type": "Quiesce", "body": {...}}. The worker connects, says Hello, and reconnects when its daemon
// restarts; training goes on meanwhile.
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

namespace holdfast::train {

inline constexpr uint32_t kWorkerLinkVersion = 5;

// Shards by flat number (ShardId::flat) that are held at one state.
struct HeldShards {
  StateVersion state;
  std::vector<uint32_t> shards;
  bool operator==(const HeldShards&) const = default;
};
BOOST_DESCRIBE_STRUCT(HeldShards, (), (state, shards))

// A block of the arena meant for, or holding, one shard.
struct ShardBlock {
  uint32_t shard = 0;  // flat
  uint32_t block = 0;
  bool operator==(const ShardBlock&) const = default;
};
BOOST_DESCRIBE_STRUCT(ShardBlock, (), (shard, block))

enum class WorkerPhase : uint8_t {
  kIdle,      // no communicator; buffers hold what `held` says (possibly nothing)
  kRestoring, // between Restore and Go
  kRunning,
  kBroken,    // a collective failed; waits for Quiesce
  kStopped    // reached the step of StopAt; communicator still open
};
BOOST_DESCRIBE_ENUM(WorkerPhase, kIdle, kRestoring, kRunning, kBroken, kStopped)

// ---- worker -> daemon -------------------------------------------------------------------------

struct Hello {
  uint32_t link_version = kWorkerLinkVersion;
  uint32_t slot = 0;
  int64_t pid = 0;
  std::string job_key;  // which job config it was started with, see job_key(); empty before Welcome
  Epoch epoch;          // of the view it works in, or the last it quiesced into
  WorkerPhase phase = WorkerPhase::kIdle;
  Step step;  // begun or next
  std::vector<HeldShards> held;
};
BOOST_DESCRIBE_STRUCT(Hello, (), (link_version, slot, pid, job_key, epoch, phase, step, held))

// The answer to Quiesce, with the device idle and every communicator closed.
struct Quiesced {
  Epoch epoch;
  std::vector<HeldShards> held;
};
BOOST_DESCRIBE_STRUCT(Quiesced, (), (epoch, held))

// The answer to Restore: every owned shard is at the base. comm_address: CommunicatorFactory::prepare.
struct Restored {
  Epoch epoch;
  std::string comm_address;  // base64
};
BOOST_DESCRIBE_STRUCT(Restored, (), (epoch, comm_address))

// How long the way from Restore to the first step took on one worker, waits for others included.
struct RestoreTimes {
  uint64_t bytes = 0;          // of shards that were loaded: verified in the arena, or computed
  double room_seconds = 0;     // memory for them and for weights
  double load_seconds = 0;     // verified and copied to where the device computes
  double connect_seconds = 0;  // the communicator
  double weights_seconds = 0;  // made of shards
};
BOOST_DESCRIBE_STRUCT(RestoreTimes, (),
                      (bytes, room_seconds, load_seconds, connect_seconds, weights_seconds))

// The answer to Go: the first step begins.
struct Running {
  Epoch epoch;
  RestoreTimes times;
};
BOOST_DESCRIBE_STRUCT(Running, (), (epoch, times))

struct RestoreFailed {
  Epoch epoch;
  std::vector<ShardBlock> bad;  // blocks that did not verify
  Error error;
};
BOOST_DESCRIBE_STRUCT(RestoreFailed, (), (epoch, bad, error))

// Which stage's, of how many.
struct StageShare {
  uint32_t stage = 0;
  uint32_t stages = 1;
  bool operator==(const StageShare&) const = default;
};
BOOST_DESCRIBE_STRUCT(StageShare, (), (stage, stages))

// One finished step. Step s made version s + 1. Ledger row and metrics in one.
struct StepDone {
  Epoch epoch;
  Step step;
  uint32_t lane = 0;
  std::vector<uint32_t> micro_batches;  // which this lane ran
  double loss = 0;                      // mean over the whole step, the same on every lane
  double load_balance_loss = 0;
  double z_loss = 0;
  double gradient_norm = 0;
  double learning_rate = 0;
  uint64_t tokens = 0;  // of the whole step
  double seconds = 0;
  std::optional<double> held_out_loss;  // when this version was evaluated
  std::vector<uint64_t> popularity;     // [layer][expert] choices of the whole step, flattened
  uint64_t tokens_dropped = 0;          // choices beyond capacity, of the whole step
  std::vector<uint64_t> dropped;        // the same by [layer][expert]; empty: dropless
  uint64_t bytes_exchanged = 0;         // sent by this lane in this step
  double stall_seconds = 0;             // of `seconds`: the update waited for a capture
  // With clip_by = "stage": what is said of the step is of this stage alone, as it does not hear the others
  // (step_parts.h). Losses and choices of other stages' layers are 0 then, and the cross entropy is known at the
  // last stage only. nullopt: it is of all.
  std::optional<StageShare> of_stage;
  bool tells_loss() const { return !of_stage || of_stage->stage + 1 == of_stage->stages; }
};
BOOST_DESCRIBE_STRUCT(StepDone, (),
                      (epoch, step, lane, micro_batches, loss, load_balance_loss, z_loss,
                       gradient_norm, learning_rate, tokens, seconds, held_out_loss, popularity,
                       tokens_dropped, dropped, bytes_exchanged, stall_seconds, of_stage))

// The capture that was asked for is published in the arena, or was not possible.
struct Captured {
  Epoch epoch;
  StateVersion state;
  std::vector<ShardBlock> blocks;
  double seconds = 0;
};
BOOST_DESCRIBE_STRUCT(Captured, (), (epoch, state, blocks, seconds))

struct CaptureMissed {
  Epoch epoch;
  Version version;
  std::string why;
  bool too_late = false;  // no buffer held it any more
};
BOOST_DESCRIBE_STRUCT(CaptureMissed, (), (epoch, version, why, too_late))

// Stands before step `step` (holds version == step) because of StopAt, or because the job's last
// step is done.
struct Stopped {
  Epoch epoch;
  Step step;
};
BOOST_DESCRIBE_STRUCT(Stopped, (), (epoch, step))

struct StopRefused {  // StopAt named a step that has been begun already
  Epoch epoch;
  Step begun;
};
BOOST_DESCRIBE_STRUCT(StopRefused, (), (epoch, begun))

// A collective failed. The worker is kBroken until Quiesce.
struct CommBroken {
  Epoch epoch;
  Step step;
  Error error;
};
BOOST_DESCRIBE_STRUCT(CommBroken, (), (epoch, step, error))

// The worker cannot go on (loss not finite, gradient overflow): the job fails. With epoch zero it is of
// no use on its node (its job cannot be opened, its data differs, its accelerator failed or has too
// little memory): the others go on, it leaves.
struct Fatal {
  Epoch epoch;
  Error error;
};
BOOST_DESCRIBE_STRUCT(Fatal, (), (epoch, error))

using FromWorker = std::variant<Hello, Quiesced, Restored, RestoreFailed, StepDone, Captured,
                                CaptureMissed, Stopped, StopRefused, CommBroken, Fatal, Running>;

// ---- daemon -> worker -------------------------------------------------------------------------

struct Welcome {
  conf::JobConfig job;
  Epoch submitted_in;  // see job_key()
  std::string arena_path;
  std::string comm_address;  // host or IP the worker listens on for collectives
  uint32_t device = 0;       // accelerator, modulo their number
};
BOOST_DESCRIBE_STRUCT(Welcome, (), (job, submitted_in, arena_path, comm_address, device))

// Abort everything, be idle, answer Quiesced with this epoch. An epoch not newer than the worker's
// own is ignored.
struct Quiesce {
  Epoch epoch;
};
BOOST_DESCRIBE_STRUCT(Quiesce, (), (epoch))

enum class WorkerSource : uint8_t {
  kBuffer,  // the worker holds it at the base already
  kArena,   // in `block` of this node's arena
  kInitial  // version 0: from the job's seed
};
BOOST_DESCRIBE_ENUM(WorkerSource, kBuffer, kArena, kInitial)

struct OwnedShard {
  uint32_t shard = 0;  // flat
  WorkerSource source = WorkerSource::kInitial;
  uint32_t block = 0;  // kArena only
};
BOOST_DESCRIBE_STRUCT(OwnedShard, (), (shard, source, block))

// Bring every owned shard to `base`, forget every other shard, prepare a communicator.
struct Restore {
  Epoch epoch;
  StateVersion base;
  uint32_t lane = 0;
  uint32_t lanes = 0;                 // of all stages; numbered by (stage, pipeline)
  std::vector<uint32_t> coordinates;  // of each lane: its pipeline d
  std::vector<uint32_t> stages;       // of each lane: its stage s
  std::vector<uint32_t> owner_lane;   // by flat shard: a lane of the stage that it belongs to
  std::vector<OwnedShard> owned;
};
BOOST_DESCRIBE_STRUCT(Restore, (), (epoch, base, lane, lanes, coordinates, stages, owner_lane, owned))

// Connect, materialize, run from step == base.version.
struct Go {
  Epoch epoch;
  std::vector<std::string> comm_addresses;  // base64, by lane
};
BOOST_DESCRIBE_STRUCT(Go, (), (epoch, comm_addresses))

// Capture this version when it is made (or now, if a buffer still holds it) into these blocks, one
// for each owned shard.
struct Capture {
  Epoch epoch;
  Version version;
  std::vector<ShardBlock> blocks;
};
BOOST_DESCRIBE_STRUCT(Capture, (), (epoch, version, blocks))

// Do not begin `step`. A later StopAt replaces an earlier one; nullopt takes it back.
struct StopAt {
  Epoch epoch;
  std::optional<Step> step;
};
BOOST_DESCRIBE_STRUCT(StopAt, (), (epoch, step))

struct Exit {
  std::string why;
};
BOOST_DESCRIBE_STRUCT(Exit, (), (why))

using ToWorker = std::variant<Welcome, Quiesce, Restore, Go, Capture, StopAt, Exit>;

// The frame's JSON text, without the length; decode gives kBadMessage for anything malformed.
std::string encode(const FromWorker& message);
std::string encode(const ToWorker& message);
Result<FromWorker> decode_from_worker(std::string_view text);
Result<ToWorker> decode_to_worker(std::string_view text);

// Names a job by name, content and the epoch in which it was submitted: a checksum over these, and its
// 16 hex digits. The hash is also the `job` of the arena's block headers, so that a job submitted anew
// never takes the state of its predecessor.
uint64_t job_hash(const conf::JobConfig& job, Epoch submitted_in);
std::string job_key(const conf::JobConfig& job, Epoch submitted_in);

}  // namespace holdfast::train
