#include "daemon/http/server.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <utility>
#include <vector>

#include "daemon/http/error_body.h"
#include "daemon/http/listener.h"
#include "daemon/http/session.h"

namespace holdfast::daemon {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

// Which file a path names, so that only the own socket is removed at the end.
std::pair<dev_t, ino_t> file_identity(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return {0, 0};
  return {info.st_dev, info.st_ino};
}

}  // namespace

void send_json(HttpReply& reply, const Result<std::string>& json) {
  if (json) return reply.send(200, kJsonType, *json);
  reply.send(http_status(json.error().code), kJsonType, encode_error_body(json.error()));
}

class HttpServer::Acceptor : public std::enable_shared_from_this<Acceptor> {
 public:
  using Protocol = asio::generic::stream_protocol;

  Acceptor(asio::io_context& io, ListeningSocket listening, HttpServerCore core)
      : core_(std::make_shared<HttpServerCore>(std::move(core))),
        address_(std::move(listening.address)),
        is_unix_(listening.is_unix),
        acceptor_(io, Protocol(listening.is_unix ? AF_UNIX : AF_INET, 0), listening.descriptor),
        retry_(io) {
    if (is_unix_) file_ = file_identity(address_);
  }

  void accept() {
    acceptor_.async_accept(
        [self = shared_from_this()](const error_code& error, HttpSession::Socket socket) {
          self->on_accept(error, std::move(socket));
        });
  }

  void stop() {
    core_->stopped = true;
    error_code ignored;
    acceptor_.close(ignored);
    retry_.cancel();
    const auto sessions = core_->sessions;  // closing takes them out of the map
    for (const auto& [id, session] : sessions) session->close();
    if (is_unix_ && file_ == file_identity(address_)) ::unlink(address_.c_str());
  }

  void close(uint64_t connection) {
    const auto found = core_->sessions.find(connection);
    if (found == core_->sessions.end()) return;
    const auto session = found->second;
    session->close();
  }

  const std::string& address() const { return address_; }
  size_t connections() const { return core_->sessions.size(); }

 private:
  void on_accept(const error_code& error, HttpSession::Socket socket) {
    if (core_->stopped) return;
    if (error) {  // out of descriptors, most likely: some will be free again
      retry_.expires_after(kAcceptRetry);
      retry_.async_wait([self = shared_from_this()](const error_code& cancelled) {
        if (!cancelled && !self->core_->stopped) self->accept();
      });
      return;
    }
    if (core_->sessions.size() < core_->options.max_connections) {
      const int yes = 1;
      if (!is_unix_)
        (void)::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
      const uint64_t id = ++last_id_;
      const auto session = std::make_shared<HttpSession>(std::move(socket), id, core_);
      core_->sessions.emplace(id, session);
      session->start();
    }
    accept();
  }

  std::shared_ptr<HttpServerCore> core_;
  std::string address_;
  bool is_unix_;
  std::pair<dev_t, ino_t> file_;
  asio::basic_socket_acceptor<Protocol> acceptor_;
  asio::steady_timer retry_;
  uint64_t last_id_ = 0;
};

Result<std::unique_ptr<HttpServer>> HttpServer::on_tcp(asio::io_context& io,
                                                       const std::string& address,
                                                       HttpServerOptions options,
                                                       HttpHandler handler,
                                                       ConnectionClosed on_closed) {
  ASSIGN_OR_RETURN(ListeningSocket listening, listen_tcp(address));
  auto acceptor = std::make_shared<Acceptor>(
      io, std::move(listening),
      HttpServerCore{options, std::move(handler), std::move(on_closed), false, {}});
  acceptor->accept();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(acceptor)));
}

Result<std::unique_ptr<HttpServer>> HttpServer::on_unix(asio::io_context& io,
                                                        const std::filesystem::path& path,
                                                        HttpServerOptions options,
                                                        HttpHandler handler,
                                                        ConnectionClosed on_closed) {
  ASSIGN_OR_RETURN(ListeningSocket listening, listen_unix(path));
  auto acceptor = std::make_shared<Acceptor>(
      io, std::move(listening),
      HttpServerCore{options, std::move(handler), std::move(on_closed), false, {}});
  acceptor->accept();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(acceptor)));
}

HttpServer::HttpServer(std::shared_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}
HttpServer::~HttpServer() { acceptor_->stop(); }

const std::string& HttpServer::address() const { return acceptor_->address(); }
size_t HttpServer::connections() const { return acceptor_->connections(); }
void HttpServer::close(uint64_t connection) { acceptor_->close(connection); }

}  // namespace holdfast::daemon
