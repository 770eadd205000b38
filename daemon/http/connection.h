// The inside of HttpClient: its queue, its socket and its timer. Private to daemon/http.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "daemon/http/client.h"

namespace holdfast::daemon {

class HttpClient::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::io_context& io, std::string address, HttpClientOptions options);
  void request(HttpCall call, Callback callback);
  void close(const std::string& why);
  void stop();

  bool connected() const { return link_ != nullptr && link_->open; }
  size_t queued() const { return queue_.size(); }
  std::function<void(Error)> on_closed;

 private:
  using Tcp = boost::asio::ip::tcp;
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Pending {
    HttpCall call;
    Callback callback;
    TimePoint deadline;
  };
  // One connection's life. An operation that completes for an older link finds only that one's
  // closed socket and buffers.
  struct Link {
    explicit Link(boost::asio::io_context& io) : resolver(io), socket(io) {}
    Tcp::resolver resolver;
    Tcp::socket socket;
    bool open = false;
    bool watching = false;
    boost::beast::flat_buffer input;
    std::optional<boost::beast::http::request<boost::beast::http::string_body>> output;
    std::optional<boost::beast::http::response_parser<boost::beast::http::string_body>> parser;
  };
  using LinkPtr = std::shared_ptr<Link>;

  void pump();
  void connect();
  void connect_to(const Tcp::resolver::results_type& endpoints);
  void on_connected();
  void send_front();
  void read_response();
  void on_response();
  void watch_idle();
  bool is_current(const LinkPtr& link) const { return link == link_; }
  void on_idle_readable();
  void arm_timer();
  void on_timer();
  void expire(TimePoint now);
  void fail_in_flight_late();
  // Takes the connection down and fails everything that is queued.
  void lose(const std::string& why);
  void disconnect();
  Error unreachable(const std::string& why) const;

  const std::string address_;
  const HttpClientOptions options_;
  boost::asio::io_context& io_;
  boost::asio::steady_timer timer_;
  LinkPtr link_;  // empty: not connected, and not connecting
  bool stopped_ = false;
  bool in_flight_ = false;  // the front of the queue has been sent
  std::deque<Pending> queue_;
};

}  // namespace holdfast::daemon
