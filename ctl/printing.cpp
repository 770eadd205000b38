#include "ctl/printing.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "base/json.h"
#include "daemon/control/client.h"

namespace holdfast::ctl {

namespace api = daemon::api;

namespace {
constexpr auto kPoll = std::chrono::milliseconds(200);
}

Result<boost::json::value> get(const Connection& connection, const std::string& target,
                               int64_t timeout_ms) {
  return daemon::ControlClient(connection.socket).call("GET", target, {}, timeout_ms);
}

Result<boost::json::value> post(const Connection& connection, const std::string& target,
                                const boost::json::value& body) {
  return daemon::ControlClient(connection.socket).call("POST", target, body, kCallTimeoutMs);
}

bool Patience::bears(const Error& error) {
  if (error.code != ErrorCode::kPeerUnreachable && error.code != ErrorCode::kTimeout) return false;
  const auto now = std::chrono::steady_clock::now();
  if (!since_) since_ = now;
  return now - *since_ < std::chrono::seconds(60);
}

Status print_json(const boost::json::value& body) {
  fmt::print("{}\n", boost::json::serialize(body));
  return {};
}

std::string number_or_dash(const std::optional<uint32_t>& number) {
  return number ? std::to_string(*number) : "-";
}
std::string loss_text(const std::optional<double>& loss) {
  return loss ? fmt::format("{:.4f}", *loss) : "-";
}

void print_job_line(const api::JobSummary& job) {
  const std::string wanted =
      job.stages == 1 ? fmt::format("{} pipelines", job.pipelines)
                      : fmt::format("{} workers ({} pipelines of {} stages)",
                                    job.pipelines * job.stages, job.pipelines, job.stages);
  fmt::print("job      {}: {}, step {} of {}, {} of {}, safe version {}\n", job.name.value,
             job.state, job.step, job.steps, job.lanes, wanted, to_string(job.safe));
  fmt::print("         loss {}, held-out {}", loss_text(job.train_loss),
             loss_text(job.held_out_loss));
  if (job.tokens_per_second)
    fmt::print(", {:.0f} tokens/s, {:.3f} s a step", *job.tokens_per_second,
               job.step_seconds.value_or(0));
  fmt::print("\n");
  if (!job.detail.empty()) fmt::print("         {}\n", job.detail);
}

Result<api::JobSummary> wait_for_job(const Connection& connection, const std::string& job) {
  const bool live = isatty(STDOUT_FILENO) == 1 && !connection.json;
  Patience patience;
  for (;; std::this_thread::sleep_for(kPoll)) {  // polling at a person's pace
    const auto body = get(connection, "/v1/jobs/" + job);
    if (!body) {
      if (patience.bears(body.error())) continue;
      return fail(body.error());
    }
    patience.answered();
    ASSIGN_OR_RETURN(auto summary, member<api::JobSummary>(*body, "summary"));
    if (live) {
      fmt::print("\r\033[K{}: {}  step {}/{}  loss {}  {:.0f} tokens/s  {} lanes",
                 summary.name.value, summary.state, summary.step, summary.steps,
                 loss_text(summary.train_loss), summary.tokens_per_second.value_or(0),
                 summary.lanes);
      std::fflush(stdout);
    }
    const bool ended =
        summary.state == "done" || summary.state == "stopped" || summary.state == "failed";
    if (ended) {
      if (live) fmt::print("\n");
      if (summary.state == "failed")
        return fail(ErrorCode::kJobState, fmt::format("job {} failed: {}", job, summary.detail));
      return summary;
    }
  }
}

}  // namespace holdfast::ctl
