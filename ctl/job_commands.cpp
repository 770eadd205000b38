#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "base/json.h"
#include "conf/job_config.h"
#include "ctl/commands.h"
#include "ctl/printing.h"
#include "ctl/table.h"

namespace holdfast::ctl {
namespace {

namespace api = daemon::api;

Status finish(const Connection& connection, const std::string& job) {
  ASSIGN_OR_RETURN(const api::JobSummary summary, wait_for_job(connection, job));
  if (connection.json) return print_json(boost::json::value_from(summary));
  print_job_line(summary);
  return {};
}

Status act(const Connection& connection, const std::string& job, const std::string& verb,
           bool wait) {
  ASSIGN_OR_RETURN(const boost::json::value body,
                   post(connection, "/v1/jobs/" + job + "/" + verb, boost::json::object()));
  if (wait) return finish(connection, job);
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto accepted, from_json<api::Accepted>(body, verb));
  fmt::print("{}\n", accepted.text);
  return {};
}

// "7 (4+3)": of all stages, and by stage.
std::string lanes_text(const daemon::View& view, uint32_t stages) {
  const std::string all = std::to_string(view.members.size());
  if (stages == 1) return all;
  std::string by_stage;
  for (uint32_t s = 0; s < stages; ++s)
    by_stage += (s == 0 ? "" : "+") +
                std::to_string(std::count_if(
                    view.members.begin(), view.members.end(), [&](const daemon::Member& m) {
                      return m.coordinate.stage == StageIndex(s);
                    }));
  return fmt::format("{} ({})", all, by_stage);
}

}  // namespace

Status submit_job(const Connection& connection, const SubmitOptions& options) {
  ASSIGN_OR_RETURN(const conf::JobConfig job,
                   conf::load_job(options.file, {options.name, options.data, options.steps}));
  boost::json::object request;
  request["job"] = boost::json::value_from(job);
  ASSIGN_OR_RETURN(const boost::json::value body, post(connection, "/v1/jobs", request));
  if (options.wait) return finish(connection, job.name.value);
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto accepted, from_json<api::Accepted>(body, "submit"));
  fmt::print("{}\n", accepted.text);
  return {};
}

Status list_jobs(const Connection& connection) {
  ASSIGN_OR_RETURN(const boost::json::value body, get(connection, "/v1/jobs"));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto jobs, from_json<std::vector<api::JobSummary>>(body, "jobs"));
  if (jobs.empty()) {
    fmt::print("no jobs; `holdfastctl job submit conf/jobs/quickstart.toml --data FILE.tokens` "
               "starts one\n");
    return {};
  }
  Table table({"JOB", "STATE", "STEP", "OF", "LANES", "SAFE", "LOSS", "HELD-OUT", "DETAIL"});
  for (const api::JobSummary& job : jobs)
    table.add({job.name.value, job.state, std::to_string(job.step), std::to_string(job.steps),
               std::to_string(job.lanes), std::to_string(job.safe.version.value),
               loss_text(job.train_loss), loss_text(job.held_out_loss), job.detail});
  std::fputs(table.text().c_str(), stdout);
  return {};
}

Status show_job(const Connection& connection, const std::string& job) {
  ASSIGN_OR_RETURN(const boost::json::value body, get(connection, "/v1/jobs/" + job));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto summary, member<api::JobSummary>(body, "summary"));
  ASSIGN_OR_RETURN(const auto config, member<conf::JobConfig>(body, "config"));
  print_job_line(summary);
  const conf::ModelConfig& model = config.model;
  fmt::print("model    {} layers, width {}, {} heads ({} kv), {} experts of {}, top-{}, context {}\n",
             model.layers, model.width, model.heads, model.kv_heads, model.experts,
             model.expert_width, model.top_k, model.context);
  const std::string stages =
      config.stages == 1 ? "" : fmt::format(" of {} stages", config.stages);
  fmt::print("step     {} pipelines{} x {} micro-batches of {} sequences{}\n", config.pipelines,
             stages, config.micro_batches, config.micro_batch_sequences,
             config.reproducible ? ", reproducible" : "");
  fmt::print("data     {}\n", config.data.path);
  fmt::print("snapshot {}, {} replicas\n", config.snapshot.policy, config.snapshot.replicas);
  ASSIGN_OR_RETURN(const auto views, member<std::vector<daemon::View>>(body, "views"));
  Table table({"EPOCH", "BASE", "LANES", "WHY"});
  for (const daemon::View& view : views)
    table.add({to_string(view.epoch), to_string(view.base), lanes_text(view, config.stages),
               view.reason});
  std::fputs(table.text().c_str(), stdout);
  return {};
}

Status stop_job(const Connection& connection, const std::string& job, bool wait) {
  return act(connection, job, "stop", wait);
}
Status resume_job(const Connection& connection, const std::string& job, bool wait) {
  return act(connection, job, "resume", wait);
}

Status remove_job(const Connection& connection, const std::string& job) {
  return act(connection, job, "remove", false);
}

Status show_job_steps(const Connection& connection, const std::string& job, uint64_t from,
                      uint64_t limit) {
  ASSIGN_OR_RETURN(
      const boost::json::value body,
      get(connection, fmt::format("/v1/jobs/{}/steps?from={}&limit={}", job, from, limit)));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto rows, from_json<std::vector<api::StepRow>>(body, "steps"));
  Table table({"STEP", "MADE IN", "LANES", "LOSS", "NORM", "RATE", "SECONDS", "DROPPED", "HELD-OUT"});
  for (const api::StepRow& row : rows)
    table.add({std::to_string(row.step.value), to_string(row.made), std::to_string(row.lanes),
               fmt::format("{:.6f}", row.loss), fmt::format("{:.3f}", row.gradient_norm),
               fmt::format("{:.2e}", row.learning_rate), fmt::format("{:.3f}", row.seconds),
               std::to_string(row.tokens_dropped), loss_text(row.held_out_loss)});
  std::fputs(table.text().c_str(), stdout);
  return {};
}

Status show_job_logs(const Connection& connection, const std::string& job, uint64_t lines) {
  ASSIGN_OR_RETURN(const boost::json::value body,
                   get(connection, fmt::format("/v1/jobs/{}/logs?lines={}", job, lines)));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto text, from_json<std::vector<std::string>>(body, "logs"));
  for (const std::string& line : text) fmt::print("{}\n", line);
  return {};
}

}  // namespace holdfast::ctl
