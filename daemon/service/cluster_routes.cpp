#include "daemon/service/cluster_routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/describe/enum_to_string.hpp>
#include <charconv>

#include "base/json.h"
#include "conf/job_config.h"

namespace holdfast::daemon {
namespace {

constexpr uint64_t kRowsAtOnce = 10'000;

// "kTakingOver" -> "taking over": what people read.
template <class Enum>
std::string words(Enum value) {
  const std::string name = boost::describe::enum_to_string(value, "kUnknown");
  std::string text;
  for (const char c : name.substr(1)) {
    if (c >= 'A' && c <= 'Z') {
      if (!text.empty()) text += ' ';
      text += static_cast<char>(c - 'A' + 'a');
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace

Result<uint64_t> query_number(const HttpRequest& request, std::string_view name,
                              uint64_t otherwise) {
  const std::string_view text = request.query(name);
  if (text.empty()) return otherwise;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size())
    return fail(ErrorCode::kUsage, fmt::format("{}={} in {} is not a number", name, text,
                                               request.target));
  return number;
}

Result<std::vector<NodeId>> node_names(std::string_view text) {
  std::vector<NodeId> names;
  while (true) {
    const std::string name(text.substr(0, text.find(',')));
    if (!conf::valid_name(name))
      return fail(ErrorCode::kUsage,
                  fmt::format("\"{}\" is no node: fail=NODE[,NODE] names nodes that would die", name));
    names.emplace_back(name);
    if (text.size() == name.size()) return names;
    text.remove_prefix(name.size() + 1);
  }
}

tl::unexpected<Error> unknown_path(const HttpRequest& request) {
  return fail(ErrorCode::kUsage,
              fmt::format("{} {} is not part of the control API", request.method, request.path()));
}

void ClusterRoutes::handle(const HttpRequest& request, ControlAnswer answer) {
  const std::string path(request.path());
  if (request.method == "GET" && path == "/v1/what-if") return what_if(request, std::move(answer));
  if (request.method == "GET") return answer(read(request));
  if (request.method != "POST") return answer(unknown_path(request));
  if (path == "/v1/jobs") return submit(request, std::move(answer));

  constexpr std::string_view kJobs = "/v1/jobs/";
  const size_t slash = path.rfind('/');
  if (!path.starts_with(kJobs) || slash <= kJobs.size()) return answer(unknown_path(request));
  const JobId job(path.substr(kJobs.size(), slash - kJobs.size()));
  const std::string verb = path.substr(slash + 1);
  auto accepted = [job, answer, verb](Status status) {
    if (!status) return answer(tl::unexpected(status.error()));
    answer(to_json_text(api::Accepted{
        job, fmt::format("job {} {}", job.value,
                         verb == "stop"     ? "stops at the next step boundary"
                         : verb == "resume" ? "is resumed"
                                            : "is removed")}));
  };
  if (verb == "stop") return host_.stop(job, accepted);
  if (verb == "resume") return host_.resume(job, accepted);
  if (verb == "remove") return host_.remove(job, accepted);
  answer(unknown_path(request));
}

void ClusterRoutes::what_if(const HttpRequest& request, ControlAnswer answer) {
  auto nodes = node_names(request.query("fail"));
  if (!nodes) return answer(tl::unexpected(nodes.error()));
  host_.what_if(std::move(*nodes), [answer = std::move(answer)](const Result<WhatIf>& foretold) {
    if (!foretold) return answer(tl::unexpected(foretold.error()));
    answer(to_json_text(*foretold));
  });
}

void ClusterRoutes::submit(const HttpRequest& request, ControlAnswer answer) {
  auto body = parse_json(request.body, "POST /v1/jobs");
  if (!body) return answer(tl::unexpected(body.error()));
  const auto* json = body->is_object() ? body->as_object().if_contains("job") : nullptr;
  if (json == nullptr)
    return answer(fail(ErrorCode::kBadMessage, "POST /v1/jobs wants {\"job\": {...}}"));
  auto job = from_json<conf::JobConfig>(*json, "POST /v1/jobs");
  if (!job) return answer(tl::unexpected(job.error()));
  host_.submit(*job, [answer, name = job->name](Status status) {
    if (!status) return answer(tl::unexpected(status.error()));
    answer(to_json_text(api::Accepted{name, fmt::format("job {} is submitted", name.value)}));
  });
}

Result<std::string> ClusterRoutes::read(const HttpRequest& request) const {
  const std::string path(request.path());
  if (path == "/v1/status") return status();
  if (path == "/v1/nodes") return nodes();
  if (path == "/v1/events") {
    ASSIGN_OR_RETURN(const uint64_t since, query_number(request, "since", 0));
    ASSIGN_OR_RETURN(const uint64_t limit, query_number(request, "limit", 100));
    ASSIGN_OR_RETURN(const auto events,
                     host_.records().events(since, std::min(limit, kRowsAtOnce)));
    return to_json_text(events);
  }
  if (path == "/v1/jobs") {
    std::vector<api::JobSummary> all;
    for (const auto& [name, job] : host_.coordinator().jobs()) all.push_back(summary(job));
    return to_json_text(all);
  }
  constexpr std::string_view kJobs = "/v1/jobs/";
  if (!path.starts_with(kJobs)) return unknown_path(request);
  const std::string rest = path.substr(kJobs.size());
  const size_t slash = rest.find('/');
  return read_job(JobId(rest.substr(0, slash)),
                  slash == std::string::npos ? "" : rest.substr(slash + 1), request);
}

Result<std::string> ClusterRoutes::read_job(const JobId& name, const std::string& part,
                                            const HttpRequest& request) const {
  const auto& jobs = host_.coordinator().jobs();
  const auto job = jobs.find(name);
  if (job == jobs.end())
    return fail(ErrorCode::kJobUnknown, fmt::format("there is no job named {}", name.value));
  if (part.empty()) {
    boost::json::object body;
    body["summary"] = boost::json::value_from(summary(job->second));
    body["config"] = boost::json::value_from(job->second.config);
    body["key"] = train::job_key(job->second.config, job->second.submitted_in);
    body["views"] = boost::json::value_from(job->second.history);
    return boost::json::serialize(body);
  }
  ASSIGN_OR_RETURN(const uint64_t from, query_number(request, "from", 0));
  ASSIGN_OR_RETURN(uint64_t limit, query_number(request, "limit", kRowsAtOnce));
  limit = std::min(limit, kRowsAtOnce);
  if (part == "steps") {
    ASSIGN_OR_RETURN(const auto rows, host_.steps().rows(name, Step(from), limit));
    return to_json_text(rows);
  }
  if (part == "ledger") {
    ASSIGN_OR_RETURN(const auto rows, host_.records().ledger(name, Step(from), limit));
    return to_json_text(rows);
  }
  return unknown_path(request);
}

api::JobSummary ClusterRoutes::summary(const JobRecord& job) const {
  const Coordinator& coordinator = host_.coordinator();
  api::JobSummary s;
  s.name = job.config.name;
  s.state = words(job.state);
  s.detail = job.detail;
  s.step = job.steps_done;
  s.steps = job.config.steps;
  s.pipelines = job.config.pipelines;
  s.stages = job.config.stages;
  s.safe = job.safe;
  s.train_loss = job.train_loss;
  s.held_out_loss = job.held_out_loss;
  if (coordinator.active_job() == nullptr || coordinator.active_job()->config.name != s.name)
    return s;
  if (coordinator.view() != nullptr) {
    s.lanes = static_cast<uint32_t>(coordinator.view()->members.size());
    s.step = std::max(s.step, coordinator.newest_version().value);
  }
  if (const auto& row = host_.steps().newest()) {
    s.train_loss = row->loss;
    s.step_seconds = row->seconds;
    s.tokens_per_second = host_.steps().tokens_per_second();
    if (row->held_out_loss) s.held_out_loss = row->held_out_loss;
  }
  return s;
}

std::string ClusterRoutes::status() const {
  const Coordinator& coordinator = host_.coordinator();
  api::Status status;
  status.local.epoch = coordinator.epoch();
  status.phase = words(coordinator.phase());
  if (!coordinator.waiting_for().empty()) status.phase += ": " + coordinator.waiting_for();
  status.nodes_known = static_cast<uint32_t>(coordinator.nodes().size());
  for (const auto& [id, node] : coordinator.nodes())
    status.nodes_up += node.state == NodeState::kUp ? 1 : 0;
  // The running job, or the one that was last: a job may fail before it has a view.
  const auto newest = [](const JobRecord& record) {
    const Epoch seen = record.history.empty() ? record.submitted_in : record.history.back().epoch;
    return std::pair(std::max(record.submitted_in, seen), record.submitted_in);
  };
  const JobRecord* job = coordinator.active_job();
  if (job == nullptr) {
    for (const auto& [name, record] : coordinator.jobs())
      if (job == nullptr || newest(*job) < newest(record)) job = &record;
  }
  if (job != nullptr) status.job = summary(*job);
  return to_json_text(status);
}

std::string ClusterRoutes::nodes() const {
  const Coordinator& coordinator = host_.coordinator();
  const View* view = coordinator.view();
  std::vector<api::Node> all;
  for (const auto& [id, known] : coordinator.nodes()) {
    api::Node node;
    node.node = id;
    node.state = words(known.state);
    node.failure_domain = known.failure_domain;
    node.peer_address = known.peer_address;
    node.arena_bytes = known.arena_bytes;
    node.worker = "none";
    for (const WorkerReport& worker : known.workers)
      if (worker.alive) node.worker = words(worker.phase);
    for (uint32_t lane = 0; view != nullptr && lane < view->members.size(); ++lane) {
      const Member& member = view->members[lane];
      if (member.worker.node != id) continue;
      node.lane = lane;
      node.coordinate = member.coordinate;
      node.holders = member.holders;
      node.shards_owned += static_cast<uint32_t>(
          std::count(view->owner_lane.begin(), view->owner_lane.end(), lane));
    }
    all.push_back(std::move(node));
  }
  return to_json_text(all);
}

}  // namespace holdfast::daemon
