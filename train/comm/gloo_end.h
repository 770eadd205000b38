// One rank's end of a connected Gloo context, which its collectives and its lines of hand-overs share: what
// waits, and what ends all of it. Only train/comm's Gloo files include this.
#pragma once

#include <gloo/transport/unbound_buffer.h>

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "train/comm/communicator.h"
#include "train/comm/gloo_group.h"

namespace holdfast::train {

// Of one exchange, or of one hand-over.
struct GlooBuffers {
  gloo::transport::UnboundBuffer* send = nullptr;
  gloo::transport::UnboundBuffer* recv = nullptr;
  int64_t timeout_ms = 0;
  std::chrono::steady_clock::time_point deadline = {};
  bool given_up = false;  // under the end's mutex: its line was aborted
};

class GlooEnd {
 public:
  explicit GlooEnd(std::shared_ptr<GlooGroup> made) : group(std::move(made)) {}

  uint32_t rank() const { return static_cast<uint32_t>(group->rank); }
  uint32_t size() const { return static_cast<uint32_t>(group->size); }

  // Runs `body`, which may throw what Gloo throws, with `buffers` as some of those that abort() wakes.
  template <class Body>
  Status guarded(GlooBuffers& buffers, const Body& body) EXCLUDES(mutex_);
  Status wait_all(GlooBuffers& buffers, size_t sends, size_t receives) EXCLUDES(mutex_);

  // From any thread.
  void abort() EXCLUDES(mutex_);
  // A pair broke, or nobody is here any more: all fails from now on, without having been aborted.
  void fail_all() EXCLUDES(mutex_);
  void give_up(GlooBuffers& buffers) EXCLUDES(mutex_);

  const std::shared_ptr<GlooGroup> group;

 private:
  Status begin(GlooBuffers& buffers) EXCLUDES(mutex_);
  Status done(GlooBuffers& buffers, Status status, const char* thrown) EXCLUDES(mutex_);
  Error broken(const GlooBuffers& buffers, const std::string& what, bool late) EXCLUDES(mutex_);
  static void wake(GlooBuffers& buffers);
  void wake_all() REQUIRES(mutex_);

  Mutex mutex_;
  bool aborted_ GUARDED_BY(mutex_) = false;
  bool failed_ GUARDED_BY(mutex_) = false;
  std::vector<GlooBuffers*> active_ GUARDED_BY(mutex_);  // of what is under way, one a thread
};

template <class Body>
Status GlooEnd::guarded(GlooBuffers& buffers, const Body& body) {
  RETURN_IF_ERROR(begin(buffers));
  try {
    return done(buffers, body(), nullptr);
  } catch (const std::exception& e) {  // Gloo throws unrelated types
    return done(buffers, {}, e.what());
  }
}

// The view's own hand-overs, or those of a line.
class GlooHandOvers final : public HandOverLine {
 public:
  // `slots`: the first of those that are its alone, one for each hand-over between two ranks.
  GlooHandOvers(std::shared_ptr<GlooEnd> end, uint64_t slots, int64_t timeout_ms);

  Status send(uint32_t to, std::vector<std::byte> bytes) override;
  Status receive(uint32_t from, std::span<std::byte> into) override;
  Status flush() override { return flush_oldest(handed_over_.size()); }
  Status flush_older() override { return flush_oldest(older_); }
  void abort() override EXCLUDES(mutex_);

 private:
  struct HandedOver {
    std::vector<std::byte> bytes;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
  };
  template <class Body>
  Status guarded(GlooBuffers& buffers, const Body& body) EXCLUDES(mutex_);
  Status flush_oldest(size_t count);

  const std::shared_ptr<GlooEnd> end_;
  const uint64_t slots_;
  const int64_t timeout_ms_;
  std::vector<uint64_t> sent_to_, received_from_;  // so far, by rank
  std::deque<HandedOver> handed_over_;             // that may not have left yet
  size_t older_ = 0;                               // of them, from before the last flush
  Mutex mutex_;  // never held when the end's is taken by another way than through give_up
  bool aborted_ GUARDED_BY(mutex_) = false;
  GlooBuffers* active_ GUARDED_BY(mutex_) = nullptr;
};

}  // namespace holdfast::train
