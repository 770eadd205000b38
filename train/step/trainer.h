// One lane's training state and its step: what the worker's main thread drives. Knows shards,
// versions and collectives; knows nothing of daemons, sockets or the arena's layout.
//
// Threads: one thread (the worker's main thread) calls everything except read_shard and
// protect_version, which the capture thread may call at any time while a view is open, and load_shard
// and init_shard, which others may call for it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/mutex.h"
#include "base/result.h"
#include "conf/job_config.h"
#include "train/comm/communicator.h"
#include "train/optimizer/protection.h"
#include "train/worker/messages.h"

namespace holdfast::train {

// Set first when a view ends. Update kernels do nothing once it is set, so that an aborted reduction
// never becomes a version (section 9 of DESIGN.md).
class AbortWord {
 public:
  void set() { store(true); }
  void clear() { store(false); }
  bool is_set() const { return word_.load(std::memory_order_acquire); }
  // Until it is set (true) or the time has come (false).
  bool wait_until(std::chrono::steady_clock::time_point time) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    while (!is_set() && std::chrono::steady_clock::now() < time) changed_.wait_until(mutex_, time);
    return is_set();
  }
  // A second word, that an accelerator reads: its bit kBit follows this one from now on; nullptr ends
  // that.
  static constexpr uint32_t kBit = 1;
  void mirror(std::atomic<uint32_t>* word) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    mirror_ = word;
    copy();
  }

 private:
  void store(bool set) EXCLUDES(mutex_) {
    word_.store(set, std::memory_order_release);
    const MutexLock lock(mutex_);
    copy();
    changed_.notify_all();
  }
  void copy() REQUIRES(mutex_) {
    if (mirror_ == nullptr) return;
    if (is_set())
      mirror_->fetch_or(kBit);
    else
      mirror_->fetch_and(~kBit);
  }
  std::atomic<bool> word_{false};
  Mutex mutex_;
  CondVar changed_;
  std::atomic<uint32_t>* mirror_ GUARDED_BY(mutex_) = nullptr;
};

struct TrainerView {
  Epoch epoch;
  StateVersion base;
  // Members are numbered by (stage, pipeline).
  uint32_t lane = 0;                  // this member
  std::vector<uint32_t> coordinates;  // of each member: its pipeline
  std::vector<uint32_t> stages;       // of each member; empty: all are of the first
  std::vector<uint32_t> owner_lane;   // by flat shard: a member of the stage that the shard belongs to
};

// Moves the worker's progress counter; round: of this lane's stage in the plan of the step, or the number
// of a held-out micro-batch. Called before every group of operations, from the thread that
// works, and while an accelerator waits for other lanes from any thread. waiting: it waits for another
// thread from now on, until the next call.
using ProgressFn = std::function<void(Step step, uint32_t round, bool waiting)>;

// Where a trainer works.
struct TrainerPlace {
  uint32_t device = 0;  // accelerator, modulo their number
  // Where captures go, when that is known: an accelerator copies into it by itself. Outlives the trainer.
  std::span<std::byte> arena = {};
};

class Trainer {
 public:
  // Opens the data and the device, lays out the model. kData..., kModelShape, kDevice....
  static Result<std::unique_ptr<Trainer>> create(const conf::JobConfig& job,
                                                 const TrainerPlace& place, AbortWord& abort,
                                                 ProgressFn progress);
  virtual ~Trainer() = default;

  // What both buffers hold, newest first. Only complete versions are listed.
  virtual std::vector<HeldShards> held() const = 0;
  // kDeviceFailed: nothing of what held() lists can be read any more. Between steps.
  virtual Status check_device() { return {}; }

  // Opens a view: makes room for the shards that this lane owns in it, keeps what it holds of them at
  // the base, drops everything else. Gradient accumulators are zeroed. kPlanImpossible: members that are
  // not in order, or a stage without any.
  virtual Status open_view(const TrainerView& view) = 0;
  // Fill owned shards at the base: from a verified payload (master, m, v) that stays as it is until
  // finish_loading, or initial (version 0). Any thread, several shards at a time; nothing else is
  // called meanwhile. They count once finish_loading has said so, which waits for the copies.
  virtual Status load_shard(uint32_t shard, std::span<const std::byte> payload) = 0;
  virtual Status init_shard(uint32_t shard) = 0;
  virtual Status finish_loading() = 0;
  // Once in a view, before its first step: compares the data with the other lanes', then produces
  // compute weights from shards. kRestoreImpossible when an owned shard is not at the base,
  // kDataDiffers on a lane whose data is not that of most lanes (of lane 0, where as many have either).
  // The communicator is that of all members, and of all steps of the view.
  virtual Status materialize(ViewCommunicator& comm) = 0;

  // One whole step: rounds, reduce, update, compute weights, evaluation when due. On any error
  // (kCommAborted, kCommPeerLost, kCommTimeout, kGradientOverflow, kLossNotFinite, kData...) no new
  // version exists unless held() lists it. Step must equal the version held.
  virtual Result<StepDone> run_step(ViewCommunicator& comm, Step step) = 0;
  // After run_step failed: the step that was finished all the same (its version exists, what came
  // after it failed), to be reported once. After materialize at the job's last version: the row of its
  // last step once more, now with the held-out loss, where that evaluation had failed here; with
  // clip_by = "stage" on every lane of the last stage, and where it did not make the step without the rest.
  virtual std::optional<StepDone> take_finished() { return std::nullopt; }
  // How tokens and gradients travel between the lanes of the view, in words for the log; known after
  // materialize. Empty: through the communicator, as everything.
  virtual std::string payload_path() const { return {}; }

  // Version held newest of the open view.
  virtual StateVersion current() const = 0;
  virtual std::span<const uint32_t> owned() const = 0;
  virtual size_t shard_bytes(uint32_t shard) const = 0;

  // Capture side (any thread). Protects a version's buffers from being overwritten until released:
  // an update that needs the buffer waits at most `max_wait_ms`, then revokes the protection and goes
  // on. nullopt: neither buffer holds the version (too early or too late).
  using Protection = train::Protection;
  virtual std::unique_ptr<Protection> protect_version(Version version, int64_t max_wait_ms) = 0;
};

}  // namespace holdfast::train
