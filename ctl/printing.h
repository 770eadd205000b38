// What several commands share: one GET, JSON output, the line about a job.
#pragma once

#include <boost/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"
#include "ctl/commands.h"
#include "daemon/control/api.h"

namespace holdfast::ctl {

inline constexpr int64_t kCallTimeoutMs = 10'000;

Result<boost::json::value> get(const Connection& connection, const std::string& target);
Result<boost::json::value> post(const Connection& connection, const std::string& target,
                                const boost::json::value& body);
Status print_json(const boost::json::value& body);
void print_job_line(const daemon::api::JobSummary& job);
std::string number_or_dash(const std::optional<uint32_t>& number);
std::string loss_text(const std::optional<double>& loss);

// Polls the job until it has ended (done, stopped or failed), printing a live line on a terminal.
// The error is kJobState with the job's detail when it failed.
Result<daemon::api::JobSummary> wait_for_job(const Connection& connection, const std::string& job);

}  // namespace holdfast::ctl
