#include "train/comm/in_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <set>
#include <numeric>
#include <optional>

#include "base/check.h"
#include "base/mutex.h"

namespace holdfast::train {
namespace {

using TimePoint = std::chrono::steady_clock::time_point;

TimePoint after_ms(int64_t ms) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
}

// What a rank brings to the collective under way.
struct Offer {
  std::span<const std::byte> send;
  std::vector<size_t> offset_for;  // by receiver, offset into send; size() + 1 entries
};

// One group's meeting place. A collective is two phases: all have offered, then all have taken.
struct Group {
  explicit Group(uint32_t size) : offers(size), ended(size) {}

  Mutex mutex;
  CondVar changed;
  std::vector<Offer> offers GUARDED_BY(mutex);
  std::vector<std::optional<bool>> ended GUARDED_BY(mutex);  // true: aborted, false: destroyed
  uint64_t phase GUARDED_BY(mutex) = 0;
  uint32_t arrived GUARDED_BY(mutex) = 0;
};

class InProcessCommunicator final : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<Group> group, uint32_t rank, uint32_t size,
                        int64_t timeout_ms)
      : group_(std::move(group)), rank_(rank), size_(size), timeout_ms_(timeout_ms) {}

  ~InProcessCommunicator() override { end(false); }

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }
  void abort() override { end(true); }

  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    CHECK(send_bytes.size() == size_ && recv_bytes.size() == size_);
    Offer offer{send, {0}};
    for (const size_t n : send_bytes) offer.offset_for.push_back(offer.offset_for.back() + n);
    CHECK(offer.offset_for.back() == send.size());
    return exchange(std::move(offer), recv, recv_bytes);
  }

  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    CHECK(recv_bytes.size() == size_ && recv_bytes[rank_] == send.size());
    return exchange(Offer{send, {}}, recv, recv_bytes);  // no offsets: everybody takes all of it
  }

 private:
  Status exchange(Offer offer, std::span<std::byte> recv, std::span<const size_t> recv_bytes) {
    CHECK(std::accumulate(recv_bytes.begin(), recv_bytes.end(), size_t{0}) == recv.size());
    const TimePoint deadline = after_ms(timeout_ms_);
    MutexLock lock(group_->mutex);
    RETURN_IF_ERROR(check_ended());
    group_->offers[rank_] = std::move(offer);
    RETURN_IF_ERROR(meet(deadline));
    RETURN_IF_ERROR(check_ended());  // an ended rank's buffer may be gone already
    size_t at = 0;
    for (uint32_t r = 0; r < size_; ++r) {
      const Offer& from = group_->offers[r];
      const size_t begin = from.offset_for.empty() ? 0 : from.offset_for[rank_];
      const size_t end = from.offset_for.empty() ? from.send.size() : from.offset_for[rank_ + 1];
      CHECK(end - begin == recv_bytes[r], "rank {} sends {} bytes to {}, which expects {}", r,
            end - begin, rank_, recv_bytes[r]);
      if (end > begin) std::memcpy(recv.data() + at, from.send.data() + begin, end - begin);
      at += recv_bytes[r];
    }
    return meet(deadline);  // until then a sender's buffer must stay
  }

  // Returns when all ranks are here.
  Status meet(TimePoint deadline) REQUIRES(group_->mutex) {
    const uint64_t phase = group_->phase;
    if (++group_->arrived == size_) {
      group_->arrived = 0;
      ++group_->phase;
      group_->changed.notify_all();
      return {};
    }
    while (group_->phase == phase) {
      RETURN_IF_ERROR(check_ended());
      if (group_->changed.wait_until(group_->mutex, deadline) == std::cv_status::timeout &&
          group_->phase == phase) {
        RETURN_IF_ERROR(check_ended());
        end_locked(false);
        return fail(ErrorCode::kCommTimeout,
                    fmt::format("rank {} waited {} ms for the others", rank_, timeout_ms_));
      }
    }
    return {};
  }

  Status check_ended() REQUIRES(group_->mutex) {
    if (group_->ended[rank_])
      return fail(*group_->ended[rank_] ? ErrorCode::kCommAborted : ErrorCode::kCommPeerLost,
                  fmt::format("rank {} of {}", rank_, size_));
    for (uint32_t r = 0; r < size_; ++r) {
      if (!group_->ended[r]) continue;
      return fail(ErrorCode::kCommPeerLost, fmt::format("rank {} is gone", r));
    }
    return {};
  }

  void end(bool aborted) {
    MutexLock lock(group_->mutex);
    end_locked(aborted);
  }
  void end_locked(bool aborted) REQUIRES(group_->mutex) {
    if (!group_->ended[rank_]) group_->ended[rank_] = aborted;
    group_->changed.notify_all();
  }

  const std::shared_ptr<Group> group_;
  const uint32_t rank_;
  const uint32_t size_;
  const int64_t timeout_ms_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_in_process_group(uint32_t size,
                                                                 int64_t collective_timeout_ms) {
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (uint32_t r = 0; r < size; ++r)
    ranks.push_back(std::make_unique<InProcessCommunicator>(group, r, size, collective_timeout_ms));
  return ranks;
}

// ---- the factory: groups are found by the addresses that all ranks agree on --------------------------

struct InProcessHub::State {
  struct Meeting {
    std::shared_ptr<Group> group;
    std::set<uint32_t> joined;
  };
  Mutex mutex;
  CondVar changed;
  uint64_t next_address GUARDED_BY(mutex) = 1;
  std::map<std::string, Meeting> meetings GUARDED_BY(mutex);
};

namespace {

class InProcessFactory final : public CommunicatorFactory {
 public:
  explicit InProcessFactory(std::shared_ptr<InProcessHub::State> hub) : hub_(std::move(hub)) {}

  Result<std::string> prepare(uint32_t rank, uint32_t size) override {
    CHECK(rank < size);
    MutexLock lock(hub_->mutex);
    rank_ = rank;
    size_ = size;
    aborted_ = false;
    address_ = fmt::format("in-process-{}", hub_->next_address++);
    return address_;
  }

  Result<std::unique_ptr<Communicator>> connect(std::span<const std::string> addresses,
                                                int64_t timeout_ms,
                                                int64_t collective_timeout_ms) override {
    if (addresses.size() != size_ || addresses[rank_] != address_)
      return fail(ErrorCode::kCommSetup, fmt::format("rank {} was not prepared for this", rank_));
    std::string key;
    for (const std::string& address : addresses) key += address + " ";
    const TimePoint deadline = after_ms(timeout_ms);
    MutexLock lock(hub_->mutex);
    InProcessHub::State::Meeting& meeting = hub_->meetings[key];
    if (!meeting.group) meeting.group = std::make_shared<Group>(size_);
    const std::shared_ptr<Group> group = meeting.group;
    meeting.joined.insert(rank_);
    hub_->changed.notify_all();
    while (hub_->meetings[key].joined.size() < size_) {
      if (aborted_) return fail(ErrorCode::kCommAborted, fmt::format("rank {} connecting", rank_));
      if (hub_->changed.wait_until(hub_->mutex, deadline) == std::cv_status::timeout &&
          hub_->meetings[key].joined.size() < size_) {
        uint32_t missing = 0;
        while (hub_->meetings[key].joined.contains(missing)) ++missing;
        return fail(ErrorCode::kCommSetup, fmt::format("rank {} could not reach rank {} within {} ms",
                                                       rank_, missing, timeout_ms));
      }
    }
    return std::make_unique<InProcessCommunicator>(group, rank_, size_, collective_timeout_ms);
  }

  void abort_connect() override {
    MutexLock lock(hub_->mutex);
    aborted_ = true;
    hub_->changed.notify_all();
  }

 private:
  const std::shared_ptr<InProcessHub::State> hub_;
  uint32_t rank_ = 0;
  uint32_t size_ = 0;
  std::string address_;
  bool aborted_ = false;
};

}  // namespace

InProcessHub::InProcessHub() : state_(std::make_shared<State>()) {}
InProcessHub::~InProcessHub() = default;
std::unique_ptr<CommunicatorFactory> InProcessHub::make_factory() {
  return std::make_unique<InProcessFactory>(state_);
}

}  // namespace holdfast::train
