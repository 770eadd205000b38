// Requests to any node, over one kept connection for each address: replication, forwarded control
// requests.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/http/client.h"
#include "daemon/peers/wire.h"

namespace holdfast::daemon {

class PeerCaller {
 public:
  using Callback = std::function<void(Result<std::string>)>;

  PeerCaller(boost::asio::io_context& io, PeerIdentity identity);
  ~PeerCaller();  // nothing is called back any more

  // `body` is JSON, and so is the answer. Requests to one address go one after another:
  // `timeout_ms` includes the wait. Errors: the peer's own; kPeerUnreachable (it may have been
  // carried out), kTimeout, kQueueFull. Never called back from within.
  void request(const std::string& address, const std::string& target, std::string body,
               int64_t timeout_ms, Callback callback);

 private:
  HttpClient& client(const std::string& address);

  boost::asio::io_context& io_;
  const PeerIdentity identity_;
  std::map<std::string, std::unique_ptr<HttpClient>> clients_;
};

}  // namespace holdfast::daemon
