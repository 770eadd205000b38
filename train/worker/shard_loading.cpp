#include "train/worker/shard_loading.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <set>
#include <utility>

#include "base/threads.h"

namespace holdfast::train {
namespace {

bool holds(const std::vector<HeldShards>& held, const StateVersion& state, uint32_t shard) {
  return std::any_of(held.begin(), held.end(), [&](const HeldShards& h) {
    return h.state == state && std::find(h.shards.begin(), h.shards.end(), shard) != h.shards.end();
  });
}

// What becomes of one shard.
struct Outcome {
  bool tried = false;
  bool bad = false;  // the block did not verify
  Status status;
};

class Crew {
 public:
  Crew(const Restore& restore, const LoadingTarget& target) : restore_(restore), target_(target) {
    for (size_t i = 0; i < restore.owned.size(); ++i)
      if (restore.owned[i].source != WorkerSource::kBuffer) order_.push_back(i);
    // The largest first, so that no thread is left alone with one at the end.
    std::stable_sort(order_.begin(), order_.end(),
                     [&](size_t a, size_t b) { return bytes(a) > bytes(b); });
    outcomes_.resize(restore.owned.size());
  }

  Loading run() {
    run_on_threads(std::min<size_t>(target_.threads, order_.size()), [this] { work(); });
    return summary();
  }

 private:
  uint64_t bytes(size_t index) const {
    return target_.trainer.shard_bytes(restore_.owned[index].shard);
  }

  void work() {
    while (!broken_.load(std::memory_order_relaxed) && !target_.abort.is_set()) {
      const size_t at = next_.fetch_add(1, std::memory_order_relaxed);
      if (at >= order_.size()) return;
      Outcome& outcome = outcomes_[order_[at]];
      outcome.tried = true;
      try {
        load(restore_.owned[order_[at]], outcome);
      } catch (const std::bad_alloc& error) {
        outcome.status = fail(ErrorCode::kDeviceMemory,
                              fmt::format("while shards were loaded: {}", error.what()));
      } catch (const std::exception& error) {
        outcome.status = fail(ErrorCode::kInternal, error.what());
      }
      // A bad block is one of perhaps several, and all are to be named.
      if (!outcome.status && !outcome.bad) broken_.store(true, std::memory_order_relaxed);
      target_.pulse.mark();
    }
  }

  void load(const OwnedShard& owned, Outcome& outcome) {
    if (owned.source == WorkerSource::kInitial) {
      outcome.status = target_.trainer.init_shard(owned.shard);
      return;
    }
    const auto payload = verified(owned);
    outcome.bad = !payload;
    outcome.status =
        payload ? target_.trainer.load_shard(owned.shard, *payload) : fail(payload.error());
  }

  Result<std::span<const std::byte>> verified(const OwnedShard& owned) {
    storage::BlockHeader expected;
    expected.job = target_.job;
    expected.shard = ShardId::unflat(owned.shard, target_.slices);
    expected.state = restore_.base;
    ASSIGN_OR_RETURN(const std::span<const std::byte> payload,
                     target_.arena.read_verified(storage::BlockIndex(owned.block), expected));
    const size_t wanted = target_.trainer.shard_bytes(owned.shard);
    if (payload.size() != wanted)
      return fail(ErrorCode::kBlockInvalid,
                  fmt::format("block {} has {} bytes, shard {} needs {}", owned.block,
                              payload.size(), owned.shard, wanted));
    return payload;
  }

  Loading summary() const {
    Loading done;
    Status first_bad;
    for (size_t i = 0; i < outcomes_.size(); ++i) {
      const Outcome& outcome = outcomes_[i];
      const OwnedShard& owned = restore_.owned[i];
      if (outcome.bad) {
        done.bad.push_back({owned.shard, owned.block});
        if (first_bad) first_bad = outcome.status;
      } else if (!outcome.status) {
        if (done.status) done.status = outcome.status;
      } else if (outcome.tried) {
        done.bytes += bytes(i);
      }
    }
    if (done.status && target_.abort.is_set())
      done.status = fail(ErrorCode::kCommAborted, "the view ended");
    if (done.status) done.status = first_bad;
    return done;
  }

  const Restore& restore_;
  const LoadingTarget& target_;
  std::vector<size_t> order_;      // into restore.owned: what is to be loaded
  std::vector<Outcome> outcomes_;  // by restore.owned; each is written by one thread
  std::atomic<size_t> next_{0};
  std::atomic<bool> broken_{false};
};

// What can be told without a look at the arena.
Status check(const Restore& restore, const Trainer& trainer) {
  const std::vector<HeldShards> held = trainer.held();
  std::set<uint32_t> named;
  for (const OwnedShard& owned : restore.owned) {
    if (owned.shard >= restore.owner_lane.size() ||
        restore.owner_lane[owned.shard] != restore.lane || !named.insert(owned.shard).second)
      return fail(ErrorCode::kBadMessage,
                  fmt::format("Restore names shard {} of {}, which is not lane {}'s or named twice",
                              owned.shard, restore.owner_lane.size(), restore.lane));
    if (owned.source == WorkerSource::kBuffer && !holds(held, restore.base, owned.shard))
      return fail(ErrorCode::kRestoreImpossible,
                  fmt::format("shard {} is not in the buffers at {}", owned.shard,
                              to_string(restore.base)));
  }
  return {};
}

}  // namespace

uint32_t loading_threads(uint32_t processors) {
  return std::clamp<uint32_t>(processors / 2, 1, kMostLoadingThreads);
}

Loading load_shards(const Restore& restore, const LoadingTarget& target) {
  Loading done;
  done.status = check(restore, target.trainer);
  if (!done.status) return done;
  done = Crew(restore, target).run();
  // Also after a failure: the blocks may be granted to others as soon as we have answered, and what is
  // in the buffers need not be loaded again.
  const Pulse::Waiting waiting(target.pulse);
  const Status copied = target.trainer.finish_loading();
  // A broken device matters more than what it led to.
  if (!copied && (done.status || copied.error().code == ErrorCode::kDeviceFailed)) done.status = copied;
  return done;
}

}  // namespace holdfast::train
