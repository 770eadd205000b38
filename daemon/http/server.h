// An HTTP/1.1 server on the daemon's event loop, over TCP or a unix socket. Single-threaded:
// everything is called on, and calls back on, the thread that runs the io_context.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "daemon/http/messages.h"

namespace boost::asio {
class io_context;
}

namespace holdfast::daemon {

// The answer to one request, given at once or later: either send, or begin_stream, any number of
// writes and end. Once the client is gone all of them do nothing. A reply that is dropped
// unanswered answers 500, a dropped stream ends.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void send(int status, std::string_view content_type, std::string body) = 0;
  virtual void begin_stream(std::string_view content_type) = 0;
  // One line of the stream; the newline is added. A client that lets more than
  // HttpServerOptions::max_backlog_bytes pile up is dropped.
  virtual void write(std::string_view line) = 0;
  virtual void end() = 0;
  virtual bool closed() const = 0;  // the client is gone: stop producing
};

// 200 with a JSON body, or the error's own status and body.
void send_json(HttpReply& reply, const Result<std::string>& json);

using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<HttpReply>)>;
// Told once for each connection, after the last request of it was handled.
using ConnectionClosed = std::function<void(uint64_t connection)>;

struct HttpServerOptions {
  uint32_t max_connections = 256;  // more are closed as soon as they come
  uint64_t max_body_bytes = kMaxHttpBodyBytes;
  uint64_t max_backlog_bytes = uint64_t{4} << 20;
  int64_t header_timeout_ms = 10'000;  // from a request's first byte to its last header
  int64_t body_timeout_ms = 30'000;
  int64_t write_timeout_ms = 10'000;  // for what was queued when the write began
  int64_t idle_timeout_ms = 600'000;  // between requests
};

class HttpServer {
 public:
  // Listening when it returns. Errors: see listen_tcp and listen_unix.
  static Result<std::unique_ptr<HttpServer>> on_tcp(boost::asio::io_context& io,
                                                    const std::string& address,
                                                    HttpServerOptions options, HttpHandler handler,
                                                    ConnectionClosed on_closed = {});
  static Result<std::unique_ptr<HttpServer>> on_unix(boost::asio::io_context& io,
                                                     const std::filesystem::path& path,
                                                     HttpServerOptions options, HttpHandler handler,
                                                     ConnectionClosed on_closed = {});
  // Closes every connection; nothing is called back any more. Removes its unix socket.
  ~HttpServer();

  const std::string& address() const;  // host:port with the chosen port, or the path
  size_t connections() const;
  void close(uint64_t connection);  // on_closed is told of it as of any other

 private:
  class Acceptor;
  explicit HttpServer(std::shared_ptr<Acceptor> acceptor);
  std::shared_ptr<Acceptor> acceptor_;
};

}  // namespace holdfast::daemon
