#include "train/comm/gloo_end.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace holdfast::train {

// ---- ends and errors ------------------------------------------------------------------------------

void GlooEnd::wake(GlooBuffers& buffers) {
  if (buffers.send != nullptr) buffers.send->abortWaitSend();
  if (buffers.recv != nullptr) buffers.recv->abortWaitRecv();
}

void GlooEnd::wake_all() {
  for (GlooBuffers* buffers : active_) wake(*buffers);
}

void GlooEnd::fail_all() {
  const MutexLock lock(mutex_);
  if (failed_ || aborted_) return;
  failed_ = true;
  group->close();
  wake_all();
}

void GlooEnd::abort() {
  const MutexLock lock(mutex_);
  if (aborted_) return;
  aborted_ = true;
  group->close();  // peers notice at once
  wake_all();
}

void GlooEnd::give_up(GlooBuffers& buffers) {
  const MutexLock lock(mutex_);
  buffers.given_up = true;
  wake(buffers);
}

Error GlooEnd::broken(const GlooBuffers& buffers, const std::string& what, bool late) {
  const MutexLock lock(mutex_);
  if (buffers.given_up && !failed_ && !aborted_)
    return {ErrorCode::kCommAborted, fmt::format("a line of rank {}", rank())};
  if (!failed_ && !aborted_) {
    group->close();
    wake_all();
  }
  failed_ = true;
  if (aborted_)
    return {ErrorCode::kCommAborted, fmt::format("rank {} of {}", rank(), size())};
  if (late)
    return {ErrorCode::kCommTimeout,
            fmt::format("rank {} waited {} ms for the others", rank(), buffers.timeout_ms)};
  return {ErrorCode::kCommPeerLost, fmt::format("rank {} of {}: {}", rank(), size(), what)};
}

Status GlooEnd::begin(GlooBuffers& buffers) {
  buffers.deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(buffers.timeout_ms);
  {
    const MutexLock lock(mutex_);
    if (!aborted_ && !failed_ && !buffers.given_up) {
      active_.push_back(&buffers);
      return {};
    }
  }
  return fail(broken(buffers, "it failed before", false));
}

Status GlooEnd::done(GlooBuffers& buffers, Status status, const char* thrown) {
  {
    const MutexLock lock(mutex_);
    active_.erase(std::find(active_.begin(), active_.end(), &buffers));
  }
  if (thrown == nullptr) return status;
  return fail(broken(buffers, thrown, std::chrono::steady_clock::now() >= buffers.deadline));
}

Status GlooEnd::wait_all(GlooBuffers& buffers, size_t sends, size_t receives) {
  constexpr const char* kConnectionLost = "the connection to a peer was lost";
  const auto left = [&] {
    // Rounded up: Gloo's own timeout must not come before the deadline that tells late from lost.
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(
        buffers.deadline - std::chrono::steady_clock::now());
    return std::max(ms, std::chrono::milliseconds(1));
  };
  for (; receives > 0; --receives)
    if (!buffers.recv->waitRecv(left())) return fail(broken(buffers, kConnectionLost, false));
  for (; sends > 0; --sends)
    if (!buffers.send->waitSend(left())) return fail(broken(buffers, kConnectionLost, false));
  return {};
}

// ---- hand-overs -----------------------------------------------------------------------------------

GlooHandOvers::GlooHandOvers(std::shared_ptr<GlooEnd> end, uint64_t slots, int64_t timeout_ms)
    : end_(std::move(end)),
      slots_(slots),
      timeout_ms_(timeout_ms),
      sent_to_(end_->size()),
      received_from_(end_->size()) {}

template <class Body>
Status GlooHandOvers::guarded(GlooBuffers& buffers, const Body& body) {
  buffers.timeout_ms = timeout_ms_;
  {
    const MutexLock lock(mutex_);
    buffers.given_up = aborted_;
    active_ = &buffers;
  }
  Status status = end_->guarded(buffers, body);
  const MutexLock lock(mutex_);
  active_ = nullptr;
  return status;
}

void GlooHandOvers::abort() {
  const MutexLock lock(mutex_);
  aborted_ = true;
  if (active_ != nullptr) end_->give_up(*active_);
}

Status GlooHandOvers::send(uint32_t to, std::vector<std::byte> bytes) {
  CHECK(to < end_->size() && to != end_->rank() && !bytes.empty());
  HandedOver& last = handed_over_.emplace_back();
  last.bytes = std::move(bytes);
  last.buffer = end_->group->createUnboundBuffer(last.bytes.data(), last.bytes.size());
  GlooBuffers none;
  return guarded(none, [&]() -> Status {
    last.buffer->send(static_cast<int>(to), slots_ + sent_to_[to]++);
    return {};
  });
}

Status GlooHandOvers::receive(uint32_t from, std::span<std::byte> into) {
  CHECK(from < end_->size() && from != end_->rank() && !into.empty());
  const auto receiving = end_->group->createUnboundBuffer(into.data(), into.size());
  GlooBuffers buffers{.recv = receiving.get()};
  return guarded(buffers, [&]() -> Status {
    receiving->recv(static_cast<int>(from), slots_ + received_from_[from]++);
    return end_->wait_all(buffers, 0, 1);
  });
}

Status GlooHandOvers::flush_oldest(size_t count) {
  for (; count > 0; --count) {
    GlooBuffers buffers{.send = handed_over_.front().buffer.get()};
    RETURN_IF_ERROR(guarded(buffers, [&] { return end_->wait_all(buffers, 1, 0); }));
    handed_over_.pop_front();
  }
  older_ = handed_over_.size();
  return {};
}

}  // namespace holdfast::train
