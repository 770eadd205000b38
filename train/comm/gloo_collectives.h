// The collectives of one connected Gloo group.
#pragma once

#include <gloo/transport/unbound_buffer.h>

#include <memory>
#include <thread>

#include "base/mutex.h"
#include "train/comm/communicator.h"
#include "train/comm/gloo_group.h"

namespace holdfast::train {

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(std::shared_ptr<GlooGroup> group, int64_t collective_timeout_ms);
  ~GlooCommunicator() override;

  uint32_t rank() const override { return static_cast<uint32_t>(group_->rank); }
  uint32_t size() const override { return static_cast<uint32_t>(group_->size); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override;
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override;
  void abort() override EXCLUDES(mutex_);

 private:
  struct Buffers;
  // What goes to each rank: `count` bytes at `offset` of the send or receive buffer.
  struct Part {
    size_t offset = 0;
    size_t bytes = 0;
  };
  Status exchange(std::span<const std::byte> send, const std::vector<Part>& out,
                  std::span<std::byte> recv, const std::vector<Part>& in) EXCLUDES(mutex_);
  Status wait_all(Buffers& buffers, size_t sends, size_t receives);
  Error broken(const std::string& what, bool late) EXCLUDES(mutex_);
  void watch() EXCLUDES(mutex_);

  const std::shared_ptr<GlooGroup> group_;
  const int64_t timeout_ms_;
  uint64_t next_slot_ = 0;
  Mutex mutex_;
  bool aborted_ GUARDED_BY(mutex_) = false;
  bool failed_ GUARDED_BY(mutex_) = false;
  Buffers* active_ GUARDED_BY(mutex_) = nullptr;  // of the collective under way

  // Gloo does not tell a buffer that was being filled when its connection broke. So a receive that
  // never ends stands open on every pair; it fails with the pair, and wakes who waits for others.
  std::byte canary_byte_{};
  std::unique_ptr<gloo::transport::UnboundBuffer> canary_;
  std::thread watcher_;
};

}  // namespace holdfast::train
