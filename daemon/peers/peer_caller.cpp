#include "daemon/peers/peer_caller.h"

#include <fmt/format.h>

#include <utility>

namespace holdfast::daemon {
namespace {

constexpr size_t kMaxKept = 256;  // connections; idle ones beyond it are closed

}  // namespace

PeerCaller::PeerCaller(boost::asio::io_context& io, PeerIdentity identity)
    : io_(io), identity_(std::move(identity)) {}
PeerCaller::~PeerCaller() = default;

HttpClient& PeerCaller::client(const std::string& address) {
  const auto found = clients_.find(address);
  if (found != clients_.end()) return *found->second;
  if (clients_.size() >= kMaxKept)
    std::erase_if(clients_, [](const auto& kept) { return kept.second->queued() == 0; });
  return *clients_.emplace(address, std::make_unique<HttpClient>(io_, address)).first->second;
}

void PeerCaller::request(const std::string& address, const std::string& target, std::string body,
                         int64_t timeout_ms, Callback callback) {
  client(address).request(
      make_peer_call(identity_, target, std::move(body), timeout_ms),
      [what = fmt::format("{} at {}", target, address), callback = std::move(callback)](
          Result<HttpResponse> response) { callback(peer_result(std::move(response), what)); });
}

}  // namespace holdfast::daemon
