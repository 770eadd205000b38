// The control socket as programs use it: blocking calls to the daemon of this machine. One
// connection a call, so that a client object is only the path and may be used from any thread.
#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace holdfast::daemon {

class ControlClient {
 public:
  explicit ControlClient(std::filesystem::path socket) : socket_(std::move(socket)) {}

  // The JSON body of the answer; a null `body` sends none. Errors: those the daemon answers, with
  // their own codes; kPeerUnreachable when no daemon listens or it went away, kTimeout,
  // kBadMessage.
  Result<boost::json::value> call(const std::string& method, const std::string& target,
                                  const boost::json::value& body, int64_t timeout_ms) const;

  // Hands over each line of the answer as it comes, until it ends or `on_line` returns false. The
  // daemon has 5 s to begin; after that silence is no error.
  Status stream(const std::string& method, const std::string& target,
                const std::function<bool(std::string_view)>& on_line) const;

 private:
  std::filesystem::path socket_;
};

}  // namespace holdfast::daemon
