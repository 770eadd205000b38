// What several commands share: one GET, JSON output, the line about a job.
#pragma once

#include <fmt/format.h>

#include <boost/json.hpp>
#include <chrono>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "ctl/commands.h"
#include "daemon/control/api.h"

namespace holdfast::ctl {

inline constexpr int64_t kCallTimeoutMs = 10'000;

Result<boost::json::value> get(const Connection& connection, const std::string& target,
                               int64_t timeout_ms = kCallTimeoutMs);
Result<boost::json::value> post(const Connection& connection, const std::string& target,
                                const boost::json::value& body);
// A member of an answer's object; kBadMessage when it is not there.
template <class T>
Result<T> member(const boost::json::value& body, const char* name) {
  const auto* object = body.if_object();
  const boost::json::value* value = object == nullptr ? nullptr : object->if_contains(name);
  if (value == nullptr)
    return fail(ErrorCode::kBadMessage, fmt::format("the daemon's answer has no `{}`", name));
  return from_json<T>(*value, name);
}

// For polling: a daemon or coordinator that is away comes back, most of the time. For a minute in a
// row that is no reason to give up.
class Patience {
 public:
  // False: the error does not pass by itself, or has lasted too long.
  bool bears(const Error& error);
  void answered() { since_.reset(); }

 private:
  std::optional<std::chrono::steady_clock::time_point> since_;
};

Status print_json(const boost::json::value& body);
void print_job_line(const daemon::api::JobSummary& job);
std::string number_or_dash(const std::optional<uint32_t>& number);
std::string loss_text(const std::optional<double>& loss);

// Polls the job until it has ended (done, stopped or failed), printing a live line on a terminal.
// The error is kJobState with the job's detail when it failed.
Result<daemon::api::JobSummary> wait_for_job(const Connection& connection, const std::string& job);

}  // namespace holdfast::ctl
