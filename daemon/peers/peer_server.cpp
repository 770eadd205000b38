#include "daemon/peers/peer_server.h"

#include <fmt/format.h>

#include <map>
#include <utility>
#include <vector>

namespace holdfast::daemon {
namespace {

constexpr uint32_t kMaxConnections = 4'096;

}  // namespace

struct PeerServer::Routes {
  PeerIdentity identity;
  std::map<std::string, PeerHandler> handlers;
  std::vector<ConnectionClosed> closed;

  // The handler of the target itself, or of the longest route that it lies below.
  const PeerHandler* find(const std::string& target) const {
    const PeerHandler* found = nullptr;
    for (const auto& [route, handler] : handlers)  // in order: a longer match comes later
      if (route == target || (route.back() == '/' && target.starts_with(route))) found = &handler;
    return found;
  }

  void handle(HttpRequest request, const std::shared_ptr<HttpReply>& reply) const {
    if (const Status known = check_identity(request.headers, identity); !known)
      return send_json(*reply, fail(known.error()));
    const PeerHandler* handler = request.method == "POST" ? find(request.target) : nullptr;
    if (handler == nullptr)
      return send_json(
          *reply, fail(ErrorCode::kBadMessage,
                       fmt::format("peers do not serve {} {}", request.method, request.target)));
    (*handler)({request.connection, std::move(request.target), std::move(request.body)},
               [reply](const Result<std::string>& answer) { send_json(*reply, answer); });
  }
};

Result<std::unique_ptr<PeerServer>> PeerServer::listen(boost::asio::io_context& io,
                                                       const std::string& address,
                                                       PeerIdentity identity) {
  const auto routes = std::make_shared<Routes>();
  routes->identity = std::move(identity);
  HttpServerOptions options;
  options.max_connections = kMaxConnections;
  ASSIGN_OR_RETURN(auto server,
                   HttpServer::on_tcp(
                       io, address, options,
                       [routes](HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
                         routes->handle(std::move(request), reply);
                       },
                       [routes](uint64_t connection) {
                         for (const ConnectionClosed& told : routes->closed) told(connection);
                       }));
  return std::unique_ptr<PeerServer>(new PeerServer(routes, std::move(server)));
}

PeerServer::PeerServer(std::shared_ptr<Routes> routes, std::unique_ptr<HttpServer> server)
    : routes_(std::move(routes)), server_(std::move(server)) {}
PeerServer::~PeerServer() = default;

void PeerServer::route(const std::string& target, PeerHandler handler) {
  routes_->handlers[target] = std::move(handler);
}
void PeerServer::on_closed(ConnectionClosed callback) {
  routes_->closed.push_back(std::move(callback));
}
void PeerServer::close(uint64_t connection) { server_->close(connection); }
const std::string& PeerServer::address() const { return server_->address(); }

}  // namespace holdfast::daemon
