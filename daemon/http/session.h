// One connection of an HttpServer: reads a request, waits for its reply, writes it, reads the next.
// Private to daemon/http.
#pragma once

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "daemon/http/server.h"

namespace holdfast::daemon {

class HttpSession;

// What the sessions of a server share with it.
struct HttpServerCore {
  HttpServerOptions options;
  HttpHandler handler;
  ConnectionClosed on_closed;
  bool stopped = false;
  std::unordered_map<uint64_t, std::shared_ptr<HttpSession>> sessions;
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;

  HttpSession(Socket socket, uint64_t id, std::shared_ptr<HttpServerCore> core);
  void start();
  void close();
  bool closed() const { return phase_ == Phase::kClosed; }

  // Of the request that is being answered; see HttpReply.
  void send(int status, std::string_view content_type, std::string body);
  void begin_stream(std::string_view content_type);
  void write_chunk(std::string_view line);
  void end_stream();

 private:
  enum class Phase : uint8_t {
    kIdle,    // between requests
    kHeader,  // a request has begun
    kBody,
    kAnswering,  // the handler owes the reply, or a stream goes on
    kFlushing,   // all of the reply is queued
    kDraining,   // the last reply is out; what the client still sends is thrown away
    kClosed,
  };
  void enter(Phase phase);
  void arm(int64_t timeout_ms);
  void read_more();
  void on_read(const boost::system::error_code& error, size_t bytes);
  void parse();
  void refuse(const boost::system::error_code& error);
  void dispatch();
  void next_request();
  void queue(std::string bytes);
  void finish();
  void write_more();
  void on_written(const boost::system::error_code& error);
  void on_all_written();
  std::string head(int status, std::string_view content_type,
                   std::optional<size_t> content_length) const;

  Socket socket_;
  const uint64_t id_;
  const std::shared_ptr<HttpServerCore> core_;
  boost::asio::steady_timer timer_;
  uint64_t timer_round_ = 0;  // a timer that fires late must not act on the next phase
  Phase phase_ = Phase::kIdle;
  boost::beast::flat_buffer input_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  bool reading_ = false;
  bool keep_alive_ = true;
  bool head_only_ = false;            // the request was HEAD
  std::vector<std::string> queued_;   // to be written next
  std::vector<std::string> writing_;  // in the hands of the socket
  uint64_t backlog_bytes_ = 0;        // of both
};

}  // namespace holdfast::daemon
