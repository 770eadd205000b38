// Waiting for completions, with a bound, and filled regions: shared by the fabric's tests.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "storage/fabric/fabric.h"

namespace holdfast::storage {

using Clock = std::chrono::steady_clock;

inline double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Collects the outcomes of operations; shared with the callbacks, which may outlive a failed test.
class Outcomes {
 public:
  FabricDone next() {
    auto state = state_;
    const size_t index = started_++;
    {
      const MutexLock lock(state->mutex);
      state->statuses.resize(started_);
      state->counts.resize(started_);
    }
    return [state, index](Status status) {
      const MutexLock lock(state->mutex);
      state->statuses[index] = std::move(status);
      ++state->counts[index];
      ++state->done;
      state->changed.notify_all();
    };
  }
  bool wait(std::chrono::seconds limit = std::chrono::seconds(30)) {
    const auto deadline = Clock::now() + limit;
    const MutexLock lock(state_->mutex);
    while (state_->done < started_)
      if (state_->changed.wait_until(state_->mutex, deadline) == std::cv_status::timeout) break;
    return state_->done >= started_;
  }
  size_t done() const {
    const MutexLock lock(state_->mutex);
    return state_->done;
  }
  size_t started() const { return started_; }
  std::vector<Status> statuses() const {
    const MutexLock lock(state_->mutex);
    for (int count : state_->counts) EXPECT_LE(count, 1) << "a completion was called twice";
    return state_->statuses;
  }
  size_t count(ErrorCode code) const {
    size_t found = 0;
    for (const Status& status : statuses()) found += !status && status.error().code == code;
    return found;
  }
  size_t successes() const {
    size_t found = 0;
    for (const Status& status : statuses()) found += status.has_value();
    return found;
  }

 private:
  struct State {
    Mutex mutex;
    CondVar changed;
    std::vector<Status> statuses GUARDED_BY(mutex);
    std::vector<int> counts GUARDED_BY(mutex);
    size_t done GUARDED_BY(mutex) = 0;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
  size_t started_ = 0;
};

inline Status write_now(Channel& channel, uint64_t local, uint64_t remote, uint64_t length) {
  Outcomes outcomes;
  channel.write(local, remote, length, outcomes.next());
  if (!outcomes.wait()) return fail(ErrorCode::kInternal, "the write never completed");
  return outcomes.statuses()[0];
}

inline Status read_now(Channel& channel, uint64_t local, uint64_t remote, uint64_t length) {
  Outcomes outcomes;
  channel.read(local, remote, length, outcomes.next());
  if (!outcomes.wait()) return fail(ErrorCode::kInternal, "the read never completed");
  return outcomes.statuses()[0];
}

inline std::vector<std::byte> random_bytes(size_t length, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(length);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

}  // namespace holdfast::storage
