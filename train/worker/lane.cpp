#include "train/worker/lane.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/fault_point.h"
#include "train/worker/base64.h"
#include "train/worker/watched_communicator.h"

namespace holdfast::train {
namespace {

bool holds(const std::vector<HeldShards>& held, const StateVersion& state, uint32_t shard) {
  return std::any_of(held.begin(), held.end(), [&](const HeldShards& h) {
    return h.state == state && std::find(h.shards.begin(), h.shards.end(), shard) != h.shards.end();
  });
}

}  // namespace

Lane::Lane(LaneParts parts, LaneTimeouts timeouts, ProgressRecord& record)
    : parts_(std::move(parts)), timeouts_(timeouts), pulse_(record, [this] { repeat_abort(); }) {}

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
  std::unique_ptr<Communicator> closing;
  MutexLock lock(mutex_);
  closing = std::move(comm_);
}

// ---- restore ------------------------------------------------------------------------------------

Lane::Restoration Lane::restore(const Restore& restore) {
  Restoration done;
  if (!job_) {
    done.error = Error{ErrorCode::kJobState, "no job is open, nothing can be restored"};
    return done;
  }
  if (auto status = restore_shards(restore, done.bad); !status) {
    done.error = std::move(status).error();
    return done;
  }
  auto address = factory_->prepare(restore.lane, restore.lanes);
  if (address)
    done.comm_address = to_base64(*address);
  else
    done.error = std::move(address).error();
  return done;
}

Status Lane::restore_shards(const Restore& restore, std::vector<ShardBlock>& bad) {
  if (fault_point_fails("worker.restore"))
    return fail(ErrorCode::kInternal, "fault point worker.restore");
  {
    const Pulse::Waiting waiting(pulse_);  // for memory, and for a capture's copy of one shard
    RETURN_IF_ERROR(trainer_->open_view({restore.epoch, restore.base, restore.lane,
                                         restore.coordinates, restore.owner_lane}));
  }
  auto bytes = std::make_shared<std::vector<size_t>>();
  for (uint32_t shard = 0; shard < restore.owner_lane.size(); ++shard)
    bytes->push_back(trainer_->shard_bytes(shard));
  shard_bytes_ = std::move(bytes);

  const std::vector<HeldShards> held = trainer_->held();
  Status first_failure;
  for (const OwnedShard& owned : restore.owned) {
    pulse_.mark();
    if (abort_.is_set()) return fail(ErrorCode::kCommAborted, "the view ended");
    if (owned.shard >= restore.owner_lane.size())
      return fail(ErrorCode::kBadMessage, fmt::format("Restore names shard {} of {}", owned.shard,
                                                      restore.owner_lane.size()));
    switch (owned.source) {
      case WorkerSource::kBuffer:
        if (!holds(held, restore.base, owned.shard))
          return fail(ErrorCode::kRestoreImpossible,
                      fmt::format("shard {} is not in the buffers at {}", owned.shard,
                                  to_string(restore.base)));
        break;
      case WorkerSource::kArena:
        // Every block is tried, so that one answer names all that are bad.
        if (auto loaded = load_block(restore, owned); !loaded) {
          bad.push_back({owned.shard, owned.block});
          if (first_failure) first_failure = std::move(loaded);
        }
        break;
      case WorkerSource::kInitial:
        RETURN_IF_ERROR(trainer_->init_shard(owned.shard));
        break;
    }
  }
  return first_failure;
}

Status Lane::load_block(const Restore& restore, const OwnedShard& owned) {
  storage::BlockHeader expected;
  expected.job = job_->hash;
  expected.shard = ShardId::unflat(owned.shard, job_->config.slices());
  expected.state = restore.base;
  ASSIGN_OR_RETURN(const std::span<const std::byte> payload,
                   arena_->read_verified(storage::BlockIndex(owned.block), expected));
  if (payload.size() != (*shard_bytes_)[owned.shard])
    return fail(ErrorCode::kBlockInvalid,
                fmt::format("block {} has {} bytes, shard {} needs {}", owned.block, payload.size(),
                            owned.shard, (*shard_bytes_)[owned.shard]));
  return trainer_->load_shard(owned.shard, payload);
}

CaptureTarget Lane::capture_target() {
  return {*arena_, job_->hash, job_->config.slices(),
          [bytes = shard_bytes_](uint32_t shard) { return bytes->at(shard); }};
}

// ---- run ----------------------------------------------------------------------------------------

Status Lane::start(const Go& go) {
  if (fault_point_fails("worker.go")) return fail(ErrorCode::kCommSetup, "fault point worker.go");
  std::vector<std::string> addresses;
  for (const std::string& text : go.comm_addresses) {
    ASSIGN_OR_RETURN(std::string address, from_base64(text));
    addresses.push_back(std::move(address));
  }
  std::unique_ptr<Communicator> comm;
  {
    const Pulse::Waiting waiting(pulse_);
    ASSIGN_OR_RETURN(
        comm, factory_->connect(addresses, timeouts_.connect_ms, timeouts_.collective_ms));
  }
  {
    MutexLock lock(mutex_);
    comm_ = std::make_unique<WatchedCommunicator>(std::move(comm), pulse_);
    if (abort_.is_set()) comm_->abort();
  }
  return trainer_->materialize(*comm_);
}

Result<StepDone> Lane::run_step(Step step) { return trainer_->run_step(*comm_, step); }

}  // namespace holdfast::train
