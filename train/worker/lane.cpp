#include "train/worker/lane.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <utility>

#include "base/fault_point.h"
#include "train/worker/base64.h"
#include "train/worker/shard_loading.h"
#include "train/worker/watched_communicator.h"

namespace holdfast::train {
namespace {

// Seconds since it was made, or since it was last asked.
class Stopwatch {
 public:
  double lap() {
    const auto now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(since_, now)).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point since_ = Clock::now();
};

}  // namespace

Lane::Lane(LaneParts parts, LaneTimeouts timeouts, ProgressRecord& record)
    : parts_(std::move(parts)),
      timeouts_(timeouts),
      threads_(loading_threads(std::thread::hardware_concurrency())),
      pulse_(record, [this] { repeat_abort(); }) {}

// ---- abort --------------------------------------------------------------------------------------

void Lane::abort_locked() {
  if (comm_) comm_->abort();
  if (factory_) factory_->abort_connect();
}

void Lane::abort() {
  abort_.set();  // before the lock: no update may begin while we wait for it
  MutexLock lock(mutex_);
  abort_.set();
  abort_locked();
}

// An abort that came just before the main thread entered connect would be forgotten by the factory.
void Lane::repeat_abort() {
  MutexLock lock(mutex_);
  if (abort_.is_set()) abort_locked();
}

void Lane::clear_abort() {
  MutexLock lock(mutex_);
  abort_.clear();
}

// ---- a job --------------------------------------------------------------------------------------

Status Lane::open_job(const Welcome& welcome) {
  const Pulse::Waiting waiting(pulse_);  // for disks, as long as it takes
  trainer_.reset();  // it may know the mapping of an earlier job
  ASSIGN_OR_RETURN(arena_, storage::ArenaMapping::map(welcome.arena_path));
  ASSIGN_OR_RETURN(trainer_, parts_.make_trainer(welcome.job, {welcome.device, arena_->bytes()},
                                                 abort_, [this](Step step, uint32_t round, bool waits) {
                                                   pulse_.mark(step, round, waits);
                                                 }));
  ASSIGN_OR_RETURN(auto factory, parts_.make_factory(welcome.comm_address));
  MutexLock lock(mutex_);
  factory_ = std::move(factory);
  job_ = Job{welcome.job, job_hash(welcome.job, welcome.submitted_in)};
  return {};
}

std::vector<HeldShards> Lane::held() const {
  return trainer_ ? trainer_->held() : std::vector<HeldShards>();
}

void Lane::close_view() {
  std::unique_ptr<ViewCommunicator> closing;
  MutexLock lock(mutex_);
  closing = std::move(comm_);
}

// ---- restore ------------------------------------------------------------------------------------

Lane::Restoration Lane::restore(const Restore& restore) {
  Restoration done = try_restore(restore);
  // A broken device shows in whatever fails first, perhaps as a lack of memory.
  if (done.error)
    if (Status usable = check_device(); !usable) done.error = std::move(usable).error();
  return done;
}

Lane::Restoration Lane::try_restore(const Restore& restore) {
  Restoration done;
  if (!job_) {
    done.error = Error{ErrorCode::kJobState, "no job is open, nothing can be restored"};
    return done;
  }
  Stopwatch watch;
  times_ = {};
  if (auto opened = open_view(restore); !opened) {
    done.error = std::move(opened).error();
    return done;
  }
  times_.room_seconds = watch.lap();
  Loading loading = load_shards(restore, {*arena_, *trainer_, abort_, pulse_, job_->hash,
                                          job_->config.slices(), threads_});
  done.bad = std::move(loading.bad);
  if (!loading.status) {
    done.error = std::move(loading.status).error();
    return done;
  }
  times_.bytes = loading.bytes;
  times_.load_seconds = watch.lap();
  auto address = factory().prepare(restore.lane, restore.lanes);
  if (address)
    done.comm_address = to_base64(*address);
  else
    done.error = std::move(address).error();
  times_.connect_seconds = watch.lap();
  return done;
}

Status Lane::open_view(const Restore& restore) {
  if (fault_point_fails("worker.restore"))
    return fail(ErrorCode::kInternal, "fault point worker.restore");
  const Pulse::Waiting waiting(pulse_);  // for memory, and for a capture's copy of one shard
  RETURN_IF_ERROR(trainer_->open_view({.epoch = restore.epoch,
                                       .base = restore.base,
                                       .lane = restore.lane,
                                       .coordinates = restore.coordinates,
                                       .stages = restore.stages,
                                       .owner_lane = restore.owner_lane}));
  auto bytes = std::make_shared<std::vector<size_t>>();
  for (uint32_t shard = 0; shard < restore.owner_lane.size(); ++shard)
    bytes->push_back(trainer_->shard_bytes(shard));
  shard_bytes_ = std::move(bytes);
  return {};
}

CaptureTarget Lane::capture_target() {
  // Beside training that computes on an accelerator; on the CPU it would take the step's processors.
  const uint32_t threads = job_->config.backend == "cpu" ? 1 : threads_;
  return {*arena_, job_->hash, job_->config.slices(),
          [bytes = shard_bytes_](uint32_t shard) { return bytes->at(shard); }, threads};
}

// ---- run ----------------------------------------------------------------------------------------

Status Lane::start(const Go& go) {
  if (fault_point_fails("worker.go")) return fail(ErrorCode::kCommSetup, "fault point worker.go");
  std::vector<std::string> addresses;
  for (const std::string& text : go.comm_addresses) {
    ASSIGN_OR_RETURN(std::string address, from_base64(text));
    addresses.push_back(std::move(address));
  }
  Stopwatch watch;
  std::unique_ptr<ViewCommunicator> comm;
  {
    const Pulse::Waiting waiting(pulse_);
    ASSIGN_OR_RETURN(
        comm, factory().connect(addresses, timeouts_.connect_ms, timeouts_.collective_ms));
  }
  {
    MutexLock lock(mutex_);
    comm_ = std::make_unique<WatchedCommunicator>(std::move(comm), pulse_);
    if (abort_.is_set()) comm_->abort();
  }
  times_.connect_seconds += watch.lap();
  RETURN_IF_ERROR(trainer_->materialize(communicator()));
  times_.weights_seconds = watch.lap();
  return {};
}

Result<StepDone> Lane::run_step(Step step) { return trainer_->run_step(communicator(), step); }

}  // namespace holdfast::train
