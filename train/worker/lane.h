// What the worker's main thread does with trainer, communicator and arena, one task after the other:
// open a job, restore, connect, step. Knows no messages' order: that is WorkerState's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "storage/arena/arena.h"
#include "train/comm/communicator.h"
#include "train/snapshot/capture.h"
#include "train/step/trainer.h"
#include "train/worker/messages.h"
#include "train/worker/pulse.h"

namespace holdfast::train {

// Where trainer and communicators come from; tests hand in fakes.
struct LaneParts {
  std::function<Result<std::unique_ptr<Trainer>>(const conf::JobConfig&, const TrainerPlace&,
                                                 AbortWord&, ProgressFn)>
      make_trainer;
  std::function<Result<std::unique_ptr<CommunicatorFactory>>(const std::string& listen_address)>
      make_factory;
};

struct LaneTimeouts {
  int64_t connect_ms = 10'000;
  int64_t collective_ms = 30'000;
};

class Lane {
 public:
  Lane(LaneParts parts, LaneTimeouts timeouts, ProgressRecord& record);

  // ---- main thread ----
  Status open_job(const Welcome& welcome) EXCLUDES(mutex_);
  uint64_t steps() const { return job_->config.steps; }
  std::vector<HeldShards> held() const;
  Status check_device() { return trainer_ ? trainer_->check_device() : Status{}; }
  // Closes the communicator.
  void close_view() EXCLUDES(mutex_);
  // The view may begin; what abort() did is over.
  void clear_abort() EXCLUDES(mutex_);

  struct Restoration {
    std::string comm_address;     // as it travels: base64
    std::vector<ShardBlock> bad;  // blocks that did not verify
    std::optional<Error> error;   // nullopt: every owned shard is at the base
  };
  Restoration restore(const Restore& restore);
  // Connects and materializes.
  Status start(const Go& go) EXCLUDES(mutex_);
  Result<StepDone> run_step(Step step);
  // After run_step failed, and after start: see Trainer::take_finished.
  std::optional<StepDone> take_finished() { return trainer_->take_finished(); }
  // Of the open view; all of it is known after start.
  const RestoreTimes& times() const { return times_; }
  std::string payload_path() const { return trainer_->payload_path(); }
  Version version() const { return trainer_->current().version; }

  // Where captures of the open view go, and what protects a version from being overwritten.
  CaptureTarget capture_target();
  std::unique_ptr<Trainer::Protection> protect(Version version, int64_t max_wait_ms) {
    return trainer_->protect_version(version, max_wait_ms);
  }
  Pulse& pulse() { return pulse_; }

  // ---- any thread ----
  // The abort word first, then whatever collective or connect is under way. Payload between
  // accelerators ends by the word itself (train/comm/nccl_payload.h).
  void abort() EXCLUDES(mutex_);

 private:
  struct Job {
    conf::JobConfig config;
    uint64_t hash = 0;
  };

  Restoration try_restore(const Restore& restore);
  Status open_view(const Restore& restore);
  // For the main thread.
  CommunicatorFactory& factory() const {
    mutex_.only_writer_reads();
    return *factory_;
  }
  ViewCommunicator& communicator() const {
    mutex_.only_writer_reads();
    return *comm_;
  }
  void repeat_abort() EXCLUDES(mutex_);
  void abort_locked() REQUIRES(mutex_);

  const LaneParts parts_;
  const LaneTimeouts timeouts_;
  const uint32_t threads_;  // that load shards, or capture them
  AbortWord abort_;
  std::optional<Job> job_;
  std::unique_ptr<storage::ArenaMapping> arena_;
  std::unique_ptr<Trainer> trainer_;
  std::shared_ptr<const std::vector<size_t>> shard_bytes_;  // by flat shard, of the open view
  RestoreTimes times_;                                      // of the open view

  Mutex mutex_;  // only the main thread changes these two, abort() uses them
  std::unique_ptr<CommunicatorFactory> factory_ GUARDED_BY(mutex_);
  std::unique_ptr<ViewCommunicator> comm_ GUARDED_BY(mutex_);
  Pulse pulse_;  // the last: its thread calls back
};

}  // namespace holdfast::train
