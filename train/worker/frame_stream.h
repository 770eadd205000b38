// Frames over one connected unix socket, either end of the worker link: 4 bytes length, little
// endian, then that many bytes of JSON. One thread: everything is called on, and calls back on, the
// event loop of the socket.
#pragma once

#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"

namespace holdfast::train {

inline constexpr size_t kMaxFrameBytes = size_t{16} << 20;
inline constexpr size_t kMaxQueuedBytes = size_t{64} << 20;

class FrameStream : public std::enable_shared_from_this<FrameStream> {
 public:
  using Socket = boost::asio::local::stream_protocol::socket;
  struct Handlers {
    std::function<void(std::string frame)> on_frame;
    std::function<void()> on_sent;  // a frame has left for the kernel; in order
    // Once, unless close() came first, and after every frame that the other end has sent.
    std::function<void(Error why)> on_closed;
  };

  static std::shared_ptr<FrameStream> start(Socket socket, Handlers handlers);
  ~FrameStream();

  // kQueueFull when kMaxQueuedBytes wait already (the other end does not read) or the frame exceeds
  // kMaxFrameBytes; kPeerUnreachable when closed or nobody reads at the other end any more.
  Status send(std::string text);
  // No handler is called any more.
  void close();
  int native_handle() { return socket_.native_handle(); }

 private:
  FrameStream(Socket socket, Handlers handlers);
  void read_header();
  void read_body(size_t bytes);
  void write_next();
  void stop_writing();
  void fail_with(const std::string& why);

  Socket socket_;
  Handlers handlers_;
  std::array<unsigned char, 4> header_{};
  std::string body_;
  std::deque<std::string> queue_;  // with headers; the first is being written
  size_t queued_bytes_ = 0;
  bool cannot_write_ = false;
  bool closed_ = false;
};

}  // namespace holdfast::train
