// A state that somebody reads out of the arena range by range (an export): its blocks outlive the
// watermark while it is read. One state at a time, and never in the way of a recovery: the arena has
// room for it only because captures are skipped meanwhile. On the event loop.
#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "storage/arena/arena.h"

namespace holdfast::daemon {

class ArenaHolds {
 public:
  static constexpr int64_t kHoldMs = 30'000;  // since it was last asked for

  explicit ArenaHolds(const Clock& clock) : clock_(clock) {}

  // False while another state is held: this one may go at any time.
  bool hold(uint64_t job, const StateVersion& state) {
    const int64_t now_ms = clock_.monotonic_ms();
    const bool other =
        held_ && now_ms < held_->until_ms && (held_->job != job || held_->state != state);
    if (!other) held_ = {job, state, now_ms + kHoldMs};
    return !other;
  }
  bool covers(const storage::BlockHeader& header) const {
    return held_ && held_->job == header.job && held_->state == header.state &&
           clock_.monotonic_ms() < held_->until_ms;
  }
  void release(uint64_t job, const StateVersion& state) {
    if (held_ && held_->job == job && held_->state == state) held_.reset();
  }
  // A view changes: the room is needed for what the base lacks here.
  void release() { held_.reset(); }

 private:
  struct Held {
    uint64_t job = 0;
    StateVersion state;
    int64_t until_ms = 0;
  };
  const Clock& clock_;
  std::optional<Held> held_;
};

}  // namespace holdfast::daemon
