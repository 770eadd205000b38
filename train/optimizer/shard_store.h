// The shards that this lane owns, double-buffered (section 5.4 of DESIGN.md): two banks, each holding
// the owned shards at one state. An update reads one bank and writes the other, so the version before
// stays intact until the next update.
//
// Threads: the main thread changes banks; protect() and what it returns may be used from the capture
// thread at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/mutex.h"
#include "base/result.h"
#include "train/kernels/backend.h"
#include "train/model/parameter_layout.h"
#include "train/optimizer/protection.h"
#include "train/optimizer/shard_room.h"
#include "train/worker/messages.h"

namespace holdfast::train {

// One shard at one state: three runs of n elements, where the backend computes.
struct ShardView {
  std::span<float> master, m, v;
};

template <class B>
class ShardStore {
 public:
  ShardStore(typename B::Device& device, const ParameterLayout& layout);
  ~ShardStore();

  // Takes memory for so many elements of shards, three runs in two banks each, when the job begins:
  // shards up to that need none later. Once, before the first open. std::bad_alloc.
  void reserve(size_t elements) EXCLUDES(mutex_);
  // Elements that a shard takes of it: its runs are aligned.
  static size_t stride(size_t elements) { return (elements + 63) / 64 * 64; }

  // Newest first. A shard is listed only where it is complete.
  std::vector<HeldShards> held() const EXCLUDES(mutex_);

  // This lane owns these shards from now on, and works from `base`: keeps what it has of them at the
  // base, drops everything else. Every protection is revoked.
  void open(const std::vector<uint32_t>& owned, const StateVersion& base) EXCLUDES(mutex_);
  // Overwrite owned shards at the base, each with three runs in host memory; any thread, several
  // shards at a time. load: the payload is there until finish_loading, which waits for the copies;
  // only then the shards count, and with an error of the device none of them. load_now is done with
  // the payload when it returns.
  void load(uint32_t shard, std::span<const std::byte> payload) EXCLUDES(mutex_);
  void load_now(uint32_t shard, std::span<const std::byte> payload) EXCLUDES(mutex_);
  Status finish_loading() EXCLUDES(mutex_);
  bool complete() const EXCLUDES(mutex_);  // every owned shard is at the newest state

  const std::vector<uint32_t>& owned() const {
    mutex_.only_writer_reads();
    return owned_;
  }
  StateVersion current() const {
    mutex_.only_writer_reads();
    return current_;
  }

  // The update: begin_update makes the other bank writable (waits for captures, see protect(); seconds
  // that it waited), commit_update makes the new state exist. Between the two nothing of it is listed.
  double begin_update() EXCLUDES(mutex_);
  ShardView now(uint32_t shard) {
    mutex_.only_writer_reads();
    return view(bank_, shard);
  }
  ShardView next(uint32_t shard) {
    mutex_.only_writer_reads();
    return view(1 - bank_, shard);
  }
  void commit_update(const StateVersion& made) EXCLUDES(mutex_);

  // nullptr: no bank holds the version completely. An update that needs the bank waits at most
  // max_wait_ms, then revokes.
  std::unique_ptr<Protection> protect(Version version, int64_t max_wait_ms)
      EXCLUDES(mutex_);

 private:
  class Guard;
  struct Bank {
    std::optional<StateVersion> state;            // nullopt: being written, or empty
    std::set<uint32_t> complete;                  // shards that are at `state`
    uint64_t generation = 0;                      // moves when protections are revoked
    uint32_t guards = 0;                          // not yet released, of this generation
    uint32_t readers = 0;                         // copying just now
    int64_t patience_ms = 0;                      // the longest that a guard asked for
  };
  ShardView view(uint32_t bank, uint32_t shard);
  template <class Upload>
  void upload_runs(uint32_t shard, std::span<const std::byte> payload, Upload upload);
  void revoke(Bank& bank) REQUIRES(mutex_);
  std::optional<uint32_t> bank_of(Version version) const REQUIRES(mutex_);

  size_t elements(uint32_t shard) const;
  // To host memory; any thread.
  Status read(const float* from, std::span<std::byte> out);

  typename B::Device& device_;
  // Two, so that one copies while another begins.
  struct Reader {
    explicit Reader(typename B::Device& device) : copier(device) {}
    Mutex mutex;
    typename B::Reader copier GUARDED_BY(mutex);
  };
  std::array<Reader, 2> readers_;
  std::atomic<size_t> next_reader_{0};
  const ParameterLayout& layout_;

  Mutex device_mutex_;  // an accelerator is driven by one thread at a time

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<uint32_t> loaded_ GUARDED_BY(mutex_);  // since the last finish_loading
  // Changed by the main thread only, which reads it without the mutex, as those do that load shards for it.
  // The floats are read by guards while `readers` is counted, and written only after revoke().
  ShardRoom<B> room_ GUARDED_BY(mutex_);  // of a shard in a bank: master, m, v
  std::vector<uint32_t> owned_ GUARDED_BY(mutex_);
  StateVersion current_ GUARDED_BY(mutex_);
  uint32_t bank_ GUARDED_BY(mutex_) = 0;  // that holds `current_`
  std::array<Bank, ShardRoom<B>::kBanks> banks_ GUARDED_BY(mutex_);
};

}  // namespace holdfast::train
