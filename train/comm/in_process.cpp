#include "train/comm/in_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

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
struct Place {
  std::vector<Offer> offers;  // by member
  uint64_t phase = 0;
  uint32_t arrived = 0;
};

constexpr uint32_t kViewLine = UINT32_MAX;

// All ranks of a view.
struct Everybody {
  explicit Everybody(uint32_t size) : ended(size) {}

  Mutex mutex;
  CondVar changed;
  std::vector<std::optional<bool>> ended GUARDED_BY(mutex);  // true: aborted, false: destroyed
  // By the ranks of a group and how many of these ranks were made before it.
  std::map<std::pair<std::vector<uint32_t>, uint64_t>, Place> places GUARDED_BY(mutex);
  // By line, sender and receiver; kViewLine: the view's own.
  std::map<std::tuple<uint32_t, uint32_t, uint32_t>, std::deque<std::vector<std::byte>>> handed_over
      GUARDED_BY(mutex);

  void end(uint32_t rank, bool aborted) REQUIRES(mutex) {
    if (!ended[rank]) ended[rank] = aborted;
    changed.notify_all();
  }

  // As `rank` sees it.
  Status check_ended(uint32_t rank) const REQUIRES(mutex) {
    if (ended[rank])
      return fail(*ended[rank] ? ErrorCode::kCommAborted : ErrorCode::kCommPeerLost,
                  fmt::format("rank {} of {}", rank, ended.size()));
    for (uint32_t r = 0; r < ended.size(); ++r)
      if (ended[r]) return fail(ErrorCode::kCommPeerLost, fmt::format("rank {} is gone", r));
    return {};
  }

  // One round of a loop in which `rank` waits for the others; they have `timeout_ms` until the deadline.
  Status wait(uint32_t rank, TimePoint deadline, int64_t timeout_ms) REQUIRES(mutex) {
    RETURN_IF_ERROR(check_ended(rank));
    if (std::chrono::steady_clock::now() >= deadline) {
      end(rank, false);
      return fail(ErrorCode::kCommTimeout,
                  fmt::format("rank {} waited {} ms for the others", rank, timeout_ms));
    }
    changed.wait_until(mutex, deadline);
    return {};
  }
};

// One rank's end of a group, or of all.
class Members {
 public:
  Members(std::shared_ptr<Everybody> everybody, std::vector<uint32_t> ranks, uint64_t number,
          uint32_t rank, int64_t timeout_ms)
      : everybody_(std::move(everybody)),
        ranks_(std::move(ranks)),
        rank_(rank),
        self_(static_cast<uint32_t>(std::find(ranks_.begin(), ranks_.end(), rank) -
                                    ranks_.begin())),
        timeout_ms_(timeout_ms) {
    CHECK(self_ < ranks_.size(), "rank {} makes a group without itself", rank);
    const MutexLock lock(everybody_->mutex);
    place_ = &everybody_->places[{ranks_, number}];
    place_->offers.resize(ranks_.size());
  }

  uint32_t self() const { return self_; }
  uint32_t size() const { return static_cast<uint32_t>(ranks_.size()); }

  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) {
    CHECK(send_bytes.size() == size() && recv_bytes.size() == size());
    Offer offer{send, {0}};
    for (const size_t n : send_bytes) offer.offset_for.push_back(offer.offset_for.back() + n);
    CHECK(offer.offset_for.back() == send.size());
    return exchange(std::move(offer), recv, recv_bytes);
  }

  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) {
    CHECK(recv_bytes.size() == size() && recv_bytes[self_] == send.size());
    return exchange(Offer{send, {}}, recv, recv_bytes);  // no offsets: everybody takes all of it
  }

  void end(bool aborted) {
    const MutexLock lock(everybody_->mutex);
    everybody_->end(rank_, aborted);
  }

 private:
  Status exchange(Offer offer, std::span<std::byte> recv, std::span<const size_t> recv_bytes) {
    CHECK(std::accumulate(recv_bytes.begin(), recv_bytes.end(), size_t{0}) == recv.size());
    const TimePoint until = after_ms(timeout_ms_);
    const MutexLock lock(everybody_->mutex);
    RETURN_IF_ERROR(everybody_->check_ended(rank_));
    place_->offers[self_] = std::move(offer);
    RETURN_IF_ERROR(meet(until));
    RETURN_IF_ERROR(everybody_->check_ended(rank_));  // an ended rank's buffer may be gone already
    size_t at = 0;
    for (uint32_t r = 0; r < size(); ++r) {
      const Offer& from = place_->offers[r];
      const size_t begin = from.offset_for.empty() ? 0 : from.offset_for[self_];
      const size_t end = from.offset_for.empty() ? from.send.size() : from.offset_for[self_ + 1];
      CHECK(end - begin == recv_bytes[r], "rank {} sends {} bytes to {}, which expects {}",
            ranks_[r], end - begin, rank_, recv_bytes[r]);
      if (end > begin) std::memcpy(recv.data() + at, from.send.data() + begin, end - begin);
      at += recv_bytes[r];
    }
    return meet(until);  // until then a sender's buffer must stay
  }

  // Returns when all members are here.
  Status meet(TimePoint until) REQUIRES(everybody_->mutex) {
    const uint64_t phase = place_->phase;
    if (++place_->arrived == size()) {
      place_->arrived = 0;
      ++place_->phase;
      everybody_->changed.notify_all();
      return {};
    }
    while (place_->phase == phase)
      RETURN_IF_ERROR(everybody_->wait(rank_, until, timeout_ms_));
    return {};
  }

  const std::shared_ptr<Everybody> everybody_;
  const std::vector<uint32_t> ranks_;
  const uint32_t rank_;  // among everybody
  const uint32_t self_;  // among the members
  const int64_t timeout_ms_;
  Place* place_ PT_GUARDED_BY(everybody_->mutex) = nullptr;  // of everybody
};

class InProcessGroup final : public Communicator {
 public:
  explicit InProcessGroup(Members members) : members_(std::move(members)) {}
  uint32_t rank() const override { return members_.self(); }
  uint32_t size() const override { return members_.size(); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return members_.all_to_all(send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    return members_.all_gather(send, recv, recv_bytes);
  }
  void abort() override { members_.end(true); }

 private:
  Members members_;
};

std::vector<uint32_t> all_ranks(uint32_t size) {
  std::vector<uint32_t> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0U);
  return ranks;
}

class InProcessLine final : public HandOverLine {
 public:
  InProcessLine(std::shared_ptr<Everybody> everybody, uint32_t rank, uint32_t size, uint32_t number,
                int64_t timeout_ms)
      : everybody_(std::move(everybody)),
        rank_(rank),
        size_(size),
        number_(number),
        timeout_ms_(timeout_ms) {}

  Status send(uint32_t to, std::vector<std::byte> bytes) override {
    CHECK(to < size_ && to != rank_ && !bytes.empty());
    const MutexLock lock(everybody_->mutex);
    RETURN_IF_ERROR(check_ended());
    everybody_->handed_over[{number_, rank_, to}].push_back(std::move(bytes));
    everybody_->changed.notify_all();
    return {};
  }
  Status receive(uint32_t from, std::span<std::byte> into) override {
    CHECK(from < size_ && from != rank_ && !into.empty());
    const TimePoint until = after_ms(timeout_ms_);
    const MutexLock lock(everybody_->mutex);
    RETURN_IF_ERROR(check_ended());
    auto& handed_over = everybody_->handed_over[{number_, from, rank_}];
    while (handed_over.empty()) {
      RETURN_IF_ERROR(everybody_->wait(rank_, until, timeout_ms_));
      if (aborted_) return check_ended();
    }
    CHECK(handed_over.front().size() == into.size(), "rank {} hands {} bytes over, {} are taken",
          from, handed_over.front().size(), into.size());
    std::memcpy(into.data(), handed_over.front().data(), into.size());
    handed_over.pop_front();
    return {};
  }
  Status flush() override {
    const MutexLock lock(everybody_->mutex);
    return check_ended();
  }
  Status flush_older() override { return flush(); }
  void abort() override {
    const MutexLock lock(everybody_->mutex);
    aborted_ = true;
    everybody_->changed.notify_all();
  }

 private:
  Status check_ended() const REQUIRES(everybody_->mutex) {
    if (aborted_) return fail(ErrorCode::kCommAborted, fmt::format("a line of rank {}", rank_));
    return everybody_->check_ended(rank_);
  }
  const std::shared_ptr<Everybody> everybody_;
  const uint32_t rank_, size_;
  const uint32_t number_;
  const int64_t timeout_ms_;
  bool aborted_ GUARDED_BY(everybody_->mutex) = false;
};

class InProcessCommunicator final : public ViewCommunicator {
 public:
  InProcessCommunicator(std::shared_ptr<Everybody> everybody, uint32_t rank, uint32_t size,
                        int64_t timeout_ms)
      : everybody_(std::move(everybody)),
        rank_(rank),
        timeout_ms_(timeout_ms),
        all_(everybody_, all_ranks(size), 0, rank, timeout_ms),
        own_(everybody_, rank, size, kViewLine, timeout_ms) {}

  ~InProcessCommunicator() override { all_.end(false); }

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return all_.size(); }
  void abort() override { all_.end(true); }

  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return all_.all_to_all(send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    return all_.all_gather(send, recv, recv_bytes);
  }

  std::unique_ptr<Communicator> group(std::vector<uint32_t> ranks) override {
    CHECK(std::is_sorted(ranks.begin(), ranks.end()) && ranks.back() < size());
    const uint64_t number = ++groups_[ranks];
    return std::make_unique<InProcessGroup>(
        Members(everybody_, std::move(ranks), number, rank_, timeout_ms_));
  }

  std::unique_ptr<HandOverLine> line(uint32_t number, int64_t timeout_ms) override {
    CHECK(number < kMostLines);
    return std::make_unique<InProcessLine>(everybody_, rank_, size(), number, timeout_ms);
  }
  Status send(uint32_t to, std::vector<std::byte> bytes) override {
    return own_.send(to, std::move(bytes));
  }
  Status receive(uint32_t from, std::span<std::byte> into) override {
    return own_.receive(from, into);
  }
  Status flush() override { return own_.flush(); }
  Status flush_older() override { return own_.flush_older(); }

 private:
  const std::shared_ptr<Everybody> everybody_;
  const uint32_t rank_;
  const int64_t timeout_ms_;
  Members all_;
  InProcessLine own_;
  std::map<std::vector<uint32_t>, uint64_t> groups_;  // made so far, by their ranks
};

}  // namespace

std::vector<std::unique_ptr<ViewCommunicator>> make_in_process_group(
    uint32_t size, int64_t collective_timeout_ms) {
  auto everybody = std::make_shared<Everybody>(size);
  std::vector<std::unique_ptr<ViewCommunicator>> ranks;
  for (uint32_t r = 0; r < size; ++r)
    ranks.push_back(
        std::make_unique<InProcessCommunicator>(everybody, r, size, collective_timeout_ms));
  return ranks;
}

// ---- the factory: groups are found by the addresses that all ranks agree on --------------------------

struct InProcessHub::State {
  struct Meeting {
    std::shared_ptr<Everybody> everybody;
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

  Result<std::unique_ptr<ViewCommunicator>> connect(std::span<const std::string> addresses,
                                                    int64_t timeout_ms,
                                                    int64_t collective_timeout_ms) override {
    if (addresses.size() != size_ || addresses[rank_] != address_)
      return fail(ErrorCode::kCommSetup, fmt::format("rank {} was not prepared for this", rank_));
    std::string key;
    for (const std::string& address : addresses) key += address + " ";
    const TimePoint deadline = after_ms(timeout_ms);
    MutexLock lock(hub_->mutex);
    InProcessHub::State::Meeting& meeting = hub_->meetings[key];
    if (!meeting.everybody) meeting.everybody = std::make_shared<Everybody>(size_);
    const std::shared_ptr<Everybody> everybody = meeting.everybody;
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
    return std::make_unique<InProcessCommunicator>(everybody, rank_, size_, collective_timeout_ms);
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
  bool aborted_ GUARDED_BY(hub_->mutex) = false;
};

}  // namespace

InProcessHub::InProcessHub() : state_(std::make_shared<State>()) {}
InProcessHub::~InProcessHub() = default;
std::unique_ptr<CommunicatorFactory> InProcessHub::make_factory() {
  return std::make_unique<InProcessFactory>(state_);
}

}  // namespace holdfast::train
