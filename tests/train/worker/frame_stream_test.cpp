#include "train/worker/frame_stream.h"

#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

namespace holdfast::train {
namespace {

using Socket = FrameStream::Socket;

class FrameStreams : public ::testing::Test {
 protected:
  FrameStreams() : raw_(io_) {
    Socket ours(io_);
    boost::asio::local::connect_pair(ours, raw_);
    stream_ = FrameStream::start(
        std::move(ours), {[this](std::string f) {
                            frames_.push_back(std::move(f));
                            if (on_frame_) on_frame_();
                          },
                          [this] { ++sent_; }, [this](Error e) { closed_ = std::move(e); }});
  }
  ~FrameStreams() override { stream_->close(); }
  template <class Done>
  bool run_until(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!done() && std::chrono::steady_clock::now() < deadline)
      io_.run_one_for(std::chrono::milliseconds(100));
    return done();
  }
  void write_raw(std::string bytes) { boost::asio::write(raw_, boost::asio::buffer(bytes)); }

  boost::asio::io_context io_;
  Socket raw_;
  std::shared_ptr<FrameStream> stream_;
  std::vector<std::string> frames_;
  std::function<void()> on_frame_;
  int sent_ = 0;
  std::optional<Error> closed_;
};

TEST_F(FrameStreams, FramesArriveWholeWhereverTheBytesAreSplit) {
  const std::string wire =
      std::string("\x03\0\0\0abc", 7) + std::string("\0\0\0\0", 4) + std::string("\x01\0\0\0x", 5);
  for (const char byte : wire) {
    write_raw(std::string(1, byte));
    io_.poll();
  }
  ASSERT_TRUE(run_until([&] { return frames_.size() == 3; }));
  EXPECT_EQ(frames_, (std::vector<std::string>{"abc", "", "x"}));
}

TEST_F(FrameStreams, WhatIsSentComesOutInOrder) {
  std::vector<std::string> received;
  auto other = FrameStream::start(
      std::move(raw_), {[&](std::string f) { received.push_back(std::move(f)); }, {}, {}});
  const std::vector<std::string> frames = {std::string(1 << 20, 'a'), "b", "", "c"};
  for (const std::string& f : frames) ASSERT_TRUE(stream_->send(f));
  ASSERT_TRUE(run_until([&] { return received.size() == 4 && sent_ == 4; }));
  EXPECT_EQ(received, frames);
  other->close();
  ASSERT_TRUE(run_until([&] { return closed_.has_value(); }));
}

TEST_F(FrameStreams, AFrameOverTheLimitClosesTheStream) {
  write_raw("\xff\xff\xff\xff");
  ASSERT_TRUE(run_until([&] { return closed_.has_value(); }));
  EXPECT_NE(closed_->message.find("4294967295"), std::string::npos);
  EXPECT_EQ(stream_->send("x").error().code, ErrorCode::kPeerUnreachable);
}

TEST_F(FrameStreams, AnEndThatDoesNotReadFillsABoundedQueue) {
  const std::string mebibyte(1 << 20, 'a');
  int accepted = 0;
  while (accepted < 1000 && stream_->send(mebibyte)) ++accepted;
  EXPECT_EQ(accepted, 63);  // headers count too
  EXPECT_EQ(stream_->send(mebibyte).error().code, ErrorCode::kQueueFull);
  EXPECT_EQ(stream_->send(std::string(kMaxFrameBytes + 1, 'a')).error().code,
            ErrorCode::kQueueFull);
}

TEST_F(FrameStreams, WhatAnEndSaidBeforeItLeftIsHeardAlthoughNothingCanBeSentToIt) {
  write_raw(std::string("\x04\0\0\0last", 8));
  raw_.close();
  ASSERT_TRUE(stream_->send("to nobody"));
  ASSERT_TRUE(run_until([&] { return closed_.has_value(); }));
  EXPECT_EQ(frames_, std::vector<std::string>{"last"});
  EXPECT_EQ(sent_, 0);
  EXPECT_EQ(stream_->send("x").error().code, ErrorCode::kPeerUnreachable);
}

TEST_F(FrameStreams, AHandlerMayCloseTheStream) {
  bool was_closed = false;
  on_frame_ = [&] {
    stream_->close();
    was_closed = true;
  };
  write_raw(std::string("\x01\0\0\0a\x01\0\0\0b", 10));
  ASSERT_TRUE(run_until([&] { return was_closed; }));
  io_.poll();
  EXPECT_EQ(frames_.size(), 1u);      // nothing is handed over after close()
  EXPECT_FALSE(closed_.has_value());  // and close() was ours: nothing is reported
}

}  // namespace
}  // namespace holdfast::train
