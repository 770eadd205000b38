#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/mutex.h"
#include "train/comm/gloo_address.h"
#include "train/comm/gloo_collectives.h"
#include "train/comm/gloo_communicator.h"

namespace holdfast::train {
namespace {

// Longer than any connect that is asked for: the factory's own deadline closes the pairs first.
constexpr std::chrono::milliseconds kPairTimeout{60'000};

class GlooFactory final : public CommunicatorFactory {
 public:
  explicit GlooFactory(std::shared_ptr<gloo::transport::Device> device)
      : device_(std::move(device)) {}

  Result<std::string> prepare(uint32_t rank, uint32_t size) override {
    CHECK(rank < size);
    try {
      auto group = std::make_shared<GlooGroup>(device_, static_cast<int>(rank),
                                               static_cast<int>(size), kPairTimeout);
      GlooAddress address{rank, std::vector<std::string>(size)};
      for (uint32_t peer = 0; peer < size; ++peer) {
        if (peer == rank) continue;
        const auto bytes = group->getPair(static_cast<int>(peer))->address().bytes();
        address.pairs[peer].assign(bytes.begin(), bytes.end());
      }
      const MutexLock lock(mutex_);
      group_ = std::move(group);
      aborted_ = false;
      return encode(address);
    } catch (const std::exception& e) {
      return fail(ErrorCode::kCommSetup, fmt::format("rank {} cannot listen: {}", rank, e.what()));
    }
  }

  Result<std::unique_ptr<ViewCommunicator>> connect(std::span<const std::string> addresses,
                                                    int64_t timeout_ms,
                                                    int64_t collective_timeout_ms) override {
    std::shared_ptr<GlooGroup> group;
    {
      const MutexLock lock(mutex_);
      group = std::exchange(group_, nullptr);
      if (aborted_) return fail(ErrorCode::kCommAborted, "connecting was aborted");
      connecting_ = group;
    }
    if (!group || addresses.size() != static_cast<size_t>(group->size))
      return fail(ErrorCode::kCommSetup, "this rank was not prepared for a group of this size");
    std::vector<std::string> peers;  // where the pair of each peer for us listens
    for (uint32_t r = 0; r < addresses.size(); ++r) {
      ASSIGN_OR_RETURN(const GlooAddress address, decode_gloo_address(addresses[r]));
      if (address.rank != r || address.pairs.size() != addresses.size())
        return fail(ErrorCode::kCommSetup, fmt::format("address {} is of rank {} of {}", r,
                                                       address.rank, address.pairs.size()));
      peers.push_back(address.pairs[static_cast<size_t>(group->rank)]);
    }
    RETURN_IF_ERROR(connect_pairs(*group, peers, timeout_ms));
    return std::make_unique<GlooCommunicator>(std::move(group), collective_timeout_ms);
  }

  void abort_connect() override {
    const MutexLock lock(mutex_);
    aborted_ = true;
    if (connecting_) connecting_->close();
    changed_.notify_all();
  }

 private:
  // Gloo's connect blocks, so a second thread closes the pairs when time is over.
  Status connect_pairs(GlooGroup& group, const std::vector<std::string>& peers,
                       int64_t timeout_ms) {
    bool done = false, late = false;  // under the mutex
    std::thread watch([&] {
      const MutexLock lock(mutex_);
      const auto deadline =
          std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
      while (!done && !aborted_ && !late)
        if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout)
          late = !done && !aborted_;
      if (late) group.close();
    });
    int at = 0;
    std::optional<std::string> failed;
    try {
      for (; at < group.size; ++at) {
        if (at == group.rank) continue;
        const std::string& peer = peers[static_cast<size_t>(at)];
        group.getPair(at)->connect({peer.begin(), peer.end()});
        const MutexLock lock(mutex_);
        if (late || aborted_) break;
      }
    } catch (const std::exception& e) {
      failed = e.what();
    }
    {
      const MutexLock lock(mutex_);
      done = true;
      connecting_.reset();
      changed_.notify_all();
    }
    watch.join();
    const MutexLock lock(mutex_);
    if (aborted_) return fail(ErrorCode::kCommAborted, "connecting was aborted");
    if (!late && !failed) return {};
    group.close();
    return fail(ErrorCode::kCommSetup,
                fmt::format("rank {} could not reach rank {} within {} ms{}", group.rank, at,
                            timeout_ms, failed ? ": " + *failed : ""));
  }

  const std::shared_ptr<gloo::transport::Device> device_;
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<GlooGroup> group_ GUARDED_BY(mutex_);       // prepared
  std::shared_ptr<GlooGroup> connecting_ GUARDED_BY(mutex_);
  bool aborted_ GUARDED_BY(mutex_) = false;
};

}  // namespace

Result<std::unique_ptr<CommunicatorFactory>> make_gloo_factory(const std::string& listen_address) {
  std::signal(SIGPIPE, SIG_IGN);
  try {
    gloo::transport::tcp::attr attr;
    attr.hostname = listen_address;
    return std::make_unique<GlooFactory>(gloo::transport::tcp::CreateDevice(attr));
  } catch (const std::exception& e) {
    return fail(ErrorCode::kCommSetup,
                fmt::format("collectives cannot listen on {}: {}", listen_address, e.what()));
  }
}

}  // namespace holdfast::train
