#include "bench/cluster_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <thread>

namespace holdfast::bench {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLimitMs = 10 * 60 * 1000;

ctl::Playground make_playground(uint32_t nodes) {
  ctl::PlaygroundOptions options;
  options.directory = cluster_folder();
  options.nodes = nodes;
  return must(ctl::Playground::create(options, true));
}

}  // namespace

int64_t wall_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

fs::path cluster_folder() {
  return fs::temp_directory_path() / fmt::format("holdfast-bench-{}", getpid());
}

ClusterRun::ClusterRun(const conf::JobConfig& job) : playground_(make_playground(job.workers())) {}

ClusterRun::~ClusterRun() {
  const Status stopped = playground_.stop_all();
  if (!stopped) fmt::print(stderr, "{}\n", stopped.error().to_string());
  if (!stopped || std::uncaught_exceptions() > 0) {  // the logs of its nodes say why
    fmt::print(stderr, "the cluster's folder is kept: {}\n", playground_.directory().string());
    return;
  }
  std::error_code ignored;
  fs::remove_all(playground_.directory(), ignored);
}

void ClusterRun::begin(const conf::JobConfig& job) {
  must(playground_.start_all());
  boost::json::object request;
  request["job"] = boost::json::value_from(job);
  must(client().call("POST", "/v1/jobs", request, 10'000));
}

std::vector<daemon::EventRecord> ClusterRun::events() {
  return get<std::vector<daemon::EventRecord>>("/v1/events?since=0&limit=100000");
}

std::vector<daemon::api::StepRow> ClusterRun::steps(const conf::JobConfig& job, uint64_t from) {
  return get<std::vector<daemon::api::StepRow>>(
      fmt::format("/v1/jobs/{}/steps?from={}&limit=100000", job.name.value, from));
}

uint64_t ClusterRun::steps_done() {
  const auto status = get<daemon::api::Status>("/v1/status");
  if (status.job && status.job->state == "failed")
    must(fail(ErrorCode::kJobState, status.job->detail));
  return status.job ? status.job->step : 0;
}

void ClusterRun::wait_for(const std::string& what, const std::function<bool()>& condition) {
  const int64_t deadline = wall_ms() + kLimitMs;
  while (!condition()) {
    if (wall_ms() > deadline) must(fail(ErrorCode::kTimeout, "not in time: " + what));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // rare enough not to disturb
  }
}

void ClusterRun::wait_for_step(uint64_t step) {
  wait_for(fmt::format("step {}", step), [&] { return steps_done() >= step; });
}

}  // namespace holdfast::bench
