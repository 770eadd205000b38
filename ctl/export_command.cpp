#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "base/json.h"
#include "conf/job_config.h"
#include "ctl/commands.h"
#include "ctl/export/model_folder.h"
#include "ctl/export/state_reader.h"
#include "ctl/printing.h"
#include "ctl/table.h"

namespace holdfast::ctl {

namespace api = daemon::api;

// What -o json prints.
struct ExportReport {
  std::string job;
  StateVersion state;
  std::string folder;
  std::string dtype;
  uint64_t files = 0;
  uint64_t bytes = 0;
};
BOOST_DESCRIBE_STRUCT(ExportReport, (), (job, state, folder, dtype, files, bytes))

namespace {

constexpr int kMostVersions = 10;

struct Exported {
  conf::JobConfig config;
  std::string key;
  StateVersion safe;
};

Result<Exported> newest_safe(const Connection& connection, const std::string& job) {
  ASSIGN_OR_RETURN(const boost::json::value body, get(connection, "/v1/jobs/" + job));
  ASSIGN_OR_RETURN(const auto summary, member<api::JobSummary>(body, "summary"));
  Exported exported;
  ASSIGN_OR_RETURN(exported.config, member<conf::JobConfig>(body, "config"));
  ASSIGN_OR_RETURN(exported.key, member<std::string>(body, "key"));
  exported.safe = summary.safe;
  if (exported.safe.version == Version(0))  // the initial weights are not kept
    return fail(ErrorCode::kJobState,
                fmt::format("job {} has no safe version yet (snapshot policy {}, state {})", job,
                            exported.config.snapshot.policy, summary.state));
  return exported;
}

// The state went, or a node that held it: a newer version may be there.
bool may_pass(const Error& error) {
  constexpr std::array kPassing = {ErrorCode::kBlockMissing, ErrorCode::kBlockInvalid,
                                   ErrorCode::kPeerUnreachable, ErrorCode::kTimeout,
                                   ErrorCode::kNotFound, ErrorCode::kQueueFull};
  return std::find(kPassing.begin(), kPassing.end(), error.code) != kPassing.end();
}

Result<ExportReport> export_state(const Connection& connection, const Exported& job,
                                  const ModelFolderOptions& options) {
  const train::ParameterLayout layout(job.config.model, job.config.slices());
  ASSIGN_OR_RETURN(const auto folder, ModelFolder::create(options, layout));
  StateReader reader(daemon::ControlClient(connection.socket), job.key, job.safe, layout);
  RETURN_IF_ERROR(reader.locate());
  RETURN_IF_ERROR(
      reader.read([&](std::span<const float> values) { return folder->append(values); }));
  RETURN_IF_ERROR(folder->finish());
  return ExportReport{job.config.name.value,
                      job.safe,
                      options.folder.string(),
                      options.type == storage::TensorType::kFloat32 ? "float32" : "bf16",
                      folder->files(),
                      folder->bytes()};
}

}  // namespace

Status export_snapshot(const Connection& connection, const ExportOptions& options) {
  const ModelFolderOptions folder{options.out, options.dtype == "bf16"
                                                   ? storage::TensorType::kBfloat16
                                                   : storage::TensorType::kFloat32};
  std::optional<StateVersion> before;
  std::optional<Error> why;
  for (int i = 0; i < kMostVersions; ++i) {
    ASSIGN_OR_RETURN(const Exported job, newest_safe(connection, options.job));
    if (job.safe == before) return fail(*why);
    const auto report = export_state(connection, job, folder);
    if (report) {
      if (connection.json) return print_json(boost::json::value_from(*report));
      fmt::print("{}: job {} at {}, {} of {} in {} file{}\n", report->folder, report->job,
                 to_string(report->state), bytes_text(report->bytes), report->dtype, report->files,
                 report->files == 1 ? "" : "s");
      return {};
    }
    if (!may_pass(report.error())) return fail(report.error());
    before = job.safe;
    why = report.error();
  }
  return fail(ErrorCode::kTimeout,
              fmt::format("{} versions of job {} went while they were read; stop it first. The last: "
                          "{}",
                          kMostVersions, options.job, why->message));
}

}  // namespace holdfast::ctl
