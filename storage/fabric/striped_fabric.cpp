#include "storage/fabric/striped_fabric.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/threads.h"
#include "storage/fabric/peer_address.h"

namespace holdfast::storage {
namespace {

constexpr char kBetween = '|';
constexpr uint32_t kProcessorsForStripe = 8;
constexpr uint32_t kMostByItself = 4;

std::vector<FabricAddress> split(const FabricAddress& address) {
  std::vector<FabricAddress> parts;
  size_t begin = 0;
  for (size_t end; (end = address.find(kBetween, begin)) != address.npos; begin = end + 1)
    parts.push_back(address.substr(begin, end - begin));
  parts.push_back(address.substr(begin));
  return parts;
}

class StripedChannel final : public Channel {
 public:
  explicit StripedChannel(std::vector<std::unique_ptr<Channel>> channels)
      : stripes_(channels.size()) {
    for (size_t i = 0; i < channels.size(); ++i) stripes_[i].channel = std::move(channels[i]);
  }
  ~StripedChannel() override { close(); }

  void write(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
             FabricDone done) override {
    stripes_.front().channel->write(local_offset, remote_offset, length, std::move(done));
  }
  void read(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
            FabricDone done) override {
    Stripe& stripe = idlest();
    *stripe.read_under_way += length;
    stripe.channel->read(local_offset, remote_offset, length,
                         [bytes = stripe.read_under_way, length, done = std::move(done)](Status status) {
                           *bytes -= length;
                           done(std::move(status));
                         });
  }
  bool lost() const override {
    return std::any_of(stripes_.begin(), stripes_.end(),
                       [](const Stripe& stripe) { return stripe.channel->lost(); });
  }
  void close() override {
    for (Stripe& stripe : stripes_) stripe.channel->close();
  }

 private:
  struct Stripe {
    std::unique_ptr<Channel> channel;
    // Shared with answers, which may come while the channel goes.
    std::shared_ptr<std::atomic<uint64_t>> read_under_way =
        std::make_shared<std::atomic<uint64_t>>(0);
  };

  Stripe& idlest() {
    return *std::min_element(stripes_.begin(), stripes_.end(),
                             [](const Stripe& a, const Stripe& b) {
                               return a.read_under_way->load() < b.read_under_way->load();
                             });
  }

  std::vector<Stripe> stripes_;
};

class StripedFabric final : public Fabric {
 public:
  explicit StripedFabric(std::vector<std::unique_ptr<Fabric>> stripes)
      : stripes_(std::move(stripes)) {
    for (const auto& stripe : stripes_) {
      if (!address_.empty()) address_ += kBetween;
      address_ += stripe->address();
    }
  }

  const FabricAddress& address() const override { return address_; }

  // All at once: together they take no longer than one may.
  Result<std::unique_ptr<Channel>> connect(const FabricAddress& peer) override {
    const std::vector<FabricAddress> peers = split(peer);
    const size_t count = std::min(peers.size(), stripes_.size());
    std::vector<Result<std::unique_ptr<Channel>>> made(count);
    std::atomic<size_t> next{0};
    run_on_threads(count, [&] {
      for (size_t i; (i = next.fetch_add(1)) < count;) made[i] = stripes_[i]->connect(peers[i]);
    });
    std::vector<std::unique_ptr<Channel>> channels;
    for (auto& channel : made) {
      if (!channel) return fail(channel.error());
      channels.push_back(std::move(*channel));
    }
    return std::make_unique<StripedChannel>(std::move(channels));
  }

 private:
  std::vector<std::unique_ptr<Fabric>> stripes_;
  FabricAddress address_;
};

}  // namespace

uint32_t stripe_count(uint32_t configured, const std::string& provider, uint32_t processors) {
  if (configured > 0) return std::min(configured, kMostStripes);
  if (provider != "tcp") return 1;
  return std::clamp<uint32_t>(processors / kProcessorsForStripe, 1, kMostByItself);
}

std::unique_ptr<Fabric> make_striped(std::vector<std::unique_ptr<Fabric>> stripes) {
  CHECK(!stripes.empty(), "a fabric of no stripes");
  return std::make_unique<StripedFabric>(std::move(stripes));
}

Result<std::unique_ptr<Fabric>> open_striped_libfabric(const FabricOptions& options,
                                                       uint32_t connections,
                                                       std::span<std::byte> region) {
  std::vector<std::unique_ptr<Fabric>> stripes;
  ASSIGN_OR_RETURN(auto first, open_libfabric(options, region));
  ASSIGN_OR_RETURN(const PeerAddress address, parse_address(first->address()));
  stripes.push_back(std::move(first));
  const uint32_t count =
      stripe_count(connections, address.provider, std::thread::hardware_concurrency());
  for (uint32_t i = 1; i < count; ++i) {
    FabricOptions next = options;
    next.provider = address.provider;
    if (options.port != 0) next.port = static_cast<uint16_t>(options.port + i);
    ASSIGN_OR_RETURN(auto stripe, open_libfabric(next, region));
    stripes.push_back(std::move(stripe));
  }
  return make_striped(std::move(stripes));
}

}  // namespace holdfast::storage
