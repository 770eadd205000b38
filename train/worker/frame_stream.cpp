#include "train/worker/frame_stream.h"

#include <fmt/format.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <utility>

namespace holdfast::train {
namespace {

using boost::system::error_code;

std::string with_header(const std::string& text) {
  const auto n = static_cast<uint32_t>(text.size());
  std::string frame;
  frame.reserve(text.size() + 4);
  for (int shift = 0; shift < 32; shift += 8) frame.push_back(static_cast<char>(n >> shift & 0xff));
  return frame += text;
}

}  // namespace

std::shared_ptr<FrameStream> FrameStream::start(Socket socket, Handlers handlers) {
  std::shared_ptr<FrameStream> stream(new FrameStream(std::move(socket), std::move(handlers)));
  stream->read_header();
  return stream;
}

FrameStream::FrameStream(Socket socket, Handlers handlers)
    : socket_(std::move(socket)), handlers_(std::move(handlers)) {}

FrameStream::~FrameStream() = default;

Status FrameStream::send(std::string text) {
  if (closed_ || cannot_write_)
    return fail(ErrorCode::kPeerUnreachable, "worker link: the connection is closed");
  if (text.size() > kMaxFrameBytes || queued_bytes_ + text.size() > kMaxQueuedBytes)
    return fail(
        ErrorCode::kQueueFull,
        fmt::format("worker link: {} bytes wait to be sent, a frame of {} more does not fit",
                    queued_bytes_, text.size()));
  queue_.push_back(with_header(text));
  queued_bytes_ += queue_.back().size();
  if (queue_.size() == 1) write_next();
  return {};
}

void FrameStream::close() {
  if (closed_) return;
  closed_ = true;
  error_code ignored;
  socket_.close(ignored);
  handlers_ = {};
}

void FrameStream::fail_with(const std::string& why) {
  if (closed_) return;
  auto on_closed = std::move(handlers_.on_closed);
  close();
  if (on_closed) on_closed(Error{ErrorCode::kPeerUnreachable, "worker link: " + why});
}

void FrameStream::stop_writing() {
  // What the other end said before it left (why it ends, above all) is still to be read; the end of
  // that closes the stream.
  cannot_write_ = true;
  queue_.clear();
  queued_bytes_ = 0;
}

void FrameStream::read_header() {
  boost::asio::async_read(
      socket_, boost::asio::buffer(header_),
      [self = shared_from_this()](const error_code& error, size_t) {
        if (self->closed_) return;
        if (error) return self->fail_with(error.message());
        size_t bytes = 0;
        for (size_t i = 0; i < 4; ++i) bytes |= size_t{self->header_[i]} << (8 * i);
        if (bytes > kMaxFrameBytes)
          return self->fail_with(
              fmt::format("a frame of {} bytes exceeds the limit of {}", bytes, kMaxFrameBytes));
        self->read_body(bytes);
      });
}

void FrameStream::read_body(size_t bytes) {
  body_.resize(bytes);
  boost::asio::async_read(socket_, boost::asio::buffer(body_),
                          [self = shared_from_this()](const error_code& error, size_t) {
                            if (self->closed_) return;
                            if (error) return self->fail_with(error.message());
                            // A handler may close the stream, which drops the handler: keep it
                            // alive.
                            const auto on_frame = self->handlers_.on_frame;
                            on_frame(std::move(self->body_));
                            if (!self->closed_) self->read_header();
                          });
}

void FrameStream::write_next() {
  boost::asio::async_write(socket_, boost::asio::buffer(queue_.front()),
                           [self = shared_from_this()](const error_code& error, size_t) {
                             if (self->closed_) return;
                             if (error) return self->stop_writing();
                             self->queued_bytes_ -= self->queue_.front().size();
                             self->queue_.pop_front();
                             if (!self->queue_.empty()) self->write_next();
                             const auto on_sent = self->handlers_.on_sent;
                             if (on_sent) on_sent();
                           });
}

}  // namespace holdfast::train
