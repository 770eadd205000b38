#include "daemon/peers/command_channel.h"

#include <fmt/format.h>

#include <utility>

namespace holdfast::daemon {

CommandChannel::CommandChannel(boost::asio::io_context& io, PeerIdentity identity,
                               CommandTarget target, uint64_t coordinator_session,
                               uint64_t& sequence, size_t max_queued, int64_t timeout_ms,
                               std::function<void(const Error&)> failed)
    : identity_(std::move(identity)),
      target_(std::move(target)),
      coordinator_session_(coordinator_session),
      sequence_(sequence),
      timeout_ms_(timeout_ms),
      failed_(std::move(failed)),
      queue_(max_queued),
      client_(io, target_.address) {}

Status CommandChannel::send(const boost::json::value& command) {
  if (broken_) return {};
  if (!queue_.push(command)) {
    broken_ = true;
    return fail(ErrorCode::kQueueFull,
                fmt::format("{} commands wait for node {}", queue_.size(), target_.node.value));
  }
  pump();
  return {};
}

void CommandChannel::pump() {
  if (outstanding_ || broken_ || queue_.empty()) return;
  outstanding_ = true;
  std::string body = fmt::format(
      R"({{"node":{},"session":{},"coordinator_session":{},"sequence":{},"commands":{}}})",
      to_json_text(target_.node), target_.session, coordinator_session_, ++sequence_,
      queue_.take_batch());
  client_.request(make_peer_call(identity_, kCommandsTarget, std::move(body), timeout_ms_),
                  [this](Result<HttpResponse> response) {
                    const auto taken =
                        peer_result(std::move(response),
                                    fmt::format("commands for node {}", target_.node.value));
                    outstanding_ = false;
                    if (taken) return pump();
                    broken_ = true;
                    const auto failed = failed_;  // it may destroy this channel
                    failed(taken.error());
                  });
}

}  // namespace holdfast::daemon
