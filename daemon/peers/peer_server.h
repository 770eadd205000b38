// Where peers knock: one TCP server, which lets in only the own cluster and release and hands each
// request to whoever serves its target. Everything runs on the daemon's event loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/http/server.h"
#include "daemon/peers/wire.h"

namespace holdfast::daemon {

struct PeerRequest {
  uint64_t connection = 0;
  std::string target;
  std::string body;  // JSON
};
// The JSON body of the answer, or an error; called once, at once or later.
using PeerReply = std::function<void(Result<std::string>)>;
using PeerHandler = std::function<void(const PeerRequest&, PeerReply)>;

class PeerServer {
 public:
  // Port 0 chooses one. Errors: see listen_tcp. Requests are accepted when the loop runs: set the
  // routes before.
  static Result<std::unique_ptr<PeerServer>> listen(boost::asio::io_context& io,
                                                    const std::string& address,
                                                    PeerIdentity identity);
  ~PeerServer();

  // POSTs to that target, or to everything below it when it ends with '/'.
  void route(const std::string& target, PeerHandler handler);
  // Told of every connection that has ended, whoever ended it.
  void on_closed(ConnectionClosed callback);
  void close(uint64_t connection);

  const std::string& address() const;  // host:port with the chosen port

 private:
  struct Routes;
  PeerServer(std::shared_ptr<Routes> routes, std::unique_ptr<HttpServer> server);

  std::shared_ptr<Routes> routes_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace holdfast::daemon
