// The quickstart: a four-node cluster on this machine trains on real text, loses its last node a third of the
// way in, gets it back, and finishes. Everything it prints was measured in this run.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "base/json.h"
#include "conf/job_config.h"
#include "ctl/commands.h"
#include "ctl/playground/playground.h"
#include "ctl/printing.h"
#include "ctl/table.h"
#include "train/data/prepare.h"

namespace holdfast::ctl {
namespace {

namespace api = daemon::api;
namespace fs = std::filesystem;

constexpr uint64_t kMaxTextBytes = uint64_t{32} << 20;
constexpr int64_t kRunLimitMs = 15 * 60 * 1000;
constexpr timespec kPoll{0, 100'000'000};

int64_t wall_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

sigset_t interrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// Waits for the next poll; the error says that the person has had enough.
Status pause_unless_interrupted() {
  const sigset_t set = interrupts();
  if (sigtimedwait(&set, nullptr, &kPoll) < 0) return {};
  return fail(ErrorCode::kInterrupted, "the quickstart was interrupted");
}

// What happened to the node that was killed, for the table.
struct Failure {
  std::string node;
  int64_t killed_ms = 0;
  uint64_t killed_at_step = 0;
  bool restarted = false;
};

class ProgressLine {
 public:
  void show(const api::Status& status) {
    if (!status.job) return;
    const std::string text = fmt::format(
        "step {:>4}/{}  loss {}  {:>6.0f} tokens/s  {} of {} nodes live  {}", status.job->step,
        status.job->steps, loss_text(status.job->train_loss),
        status.job->tokens_per_second.value_or(0), status.nodes_up, status.nodes_known,
        status.phase);
    if (isatty(STDOUT_FILENO) == 1) {
      fmt::print("\r\033[K{}", text);
    } else if (status.job->step >= next_) {  // a log file gets a line now and then
      fmt::print("{}\n", text);
      next_ = status.job->step + 25;
    }
    std::fflush(stdout);
  }
  void say(const std::string& text) {
    fmt::print("{}{}\n", isatty(STDOUT_FILENO) == 1 ? "\r\033[K" : "", text);
    std::fflush(stdout);
  }

 private:
  uint64_t next_ = 0;
};

bool ended(const std::string& state) {
  return state == "done" || state == "failed" || state == "stopped";
}

// Follows the job to its end; `break_it` kills and restarts a node on the way.
Result<api::JobSummary> follow(Playground& playground, uint64_t steps, bool break_it,
                               Failure& failure) {
  const Connection connection{playground.nodes().front().control_socket, false};
  ProgressLine line;
  const int64_t deadline = wall_ms() + kRunLimitMs;
  Patience patience;
  while (wall_ms() < deadline) {
    RETURN_IF_ERROR(pause_unless_interrupted());
    const auto body = get(connection, "/v1/status");
    if (!body) {
      if (patience.bears(body.error())) continue;
      return fail(body.error());
    }
    patience.answered();
    ASSIGN_OR_RETURN(const api::Status status, from_json<api::Status>(*body, "status"));
    line.show(status);
    if (status.job && ended(status.job->state)) {
      line.say("");
      if (status.job->state != "done")
        return fail(ErrorCode::kJobState,
                    fmt::format("the job is {}: {}", status.job->state, status.job->detail));
      return *status.job;
    }
    const uint64_t step = status.job ? status.job->step : 0;
    if (break_it && failure.killed_ms == 0 && step >= steps / 3) {
      failure.node = playground.nodes().back().name;  // never the seed
      line.say(fmt::format("-- SIGKILL to {}: its daemon and its worker", failure.node));
      failure.killed_at_step = step;
      failure.killed_ms = wall_ms();
      RETURN_IF_ERROR(playground.kill_node(failure.node));
    }
    if (failure.killed_ms != 0 && !failure.restarted && step >= steps * 6 / 10) {
      line.say(fmt::format("-- starting {} again", failure.node));
      failure.restarted = true;
      RETURN_IF_ERROR(playground.start_node(failure.node));
    }
  }
  return fail(ErrorCode::kTimeout, "the job did not end within 15 minutes");
}

std::string detail(const daemon::EventRecord& event, const std::string& key) {
  for (const auto& [name, value] : event.details)
    if (name == key) return value;
  return "-";
}

// Reads from the cluster's own events what the failure cost.
Status print_failure(const Playground& playground, const Failure& failure, Table& table) {
  const Connection connection{playground.nodes().front().control_socket, false};
  ASSIGN_OR_RETURN(const boost::json::value body, get(connection, "/v1/events?since=0&limit=10000"));
  ASSIGN_OR_RETURN(const auto events,
                   from_json<std::vector<daemon::EventRecord>>(body, "events"));
  std::optional<int64_t> noticed, first_step;
  std::string twice = "-", rejoined = "-";
  for (const daemon::EventRecord& event : events) {
    if (event.wall_ms < failure.killed_ms) continue;
    const bool notices = event.kind == "node_suspected" || event.kind == "worker_lost" ||
                         event.kind == "quiesce";
    if (notices && !noticed) noticed = event.wall_ms - failure.killed_ms;
    if (event.kind == "first_step" && !first_step) {
      first_step = event.wall_ms - failure.killed_ms;
      twice = detail(event, "steps_twice");
    }
    if (event.kind == "rejoined") rejoined = detail(event, "step");
  }
  table.add({"node killed", fmt::format("{} at step {}", failure.node, failure.killed_at_step)});
  table.add({"noticed after", noticed ? fmt::format("{} ms", *noticed) : "-"});
  table.add({"first step completed after",
             first_step ? fmt::format("{} ms", *first_step) : "-"});
  table.add({"steps done twice", twice});
  table.add({"re-joined at step", rejoined});
  return {};
}

Result<conf::JobConfig> make_job(const QuickstartArguments& arguments, const fs::path& tokens,
                                 const std::string& name) {
  ASSIGN_OR_RETURN(conf::JobConfig job,
                   conf::load_job(arguments.job, {name, tokens.string(), arguments.steps}));
  if (job.pipelines < 2)
    return fail(ErrorCode::kConfigValue,
                fmt::format("pipelines = {} in {}: the quickstart loses one node of at least 2",
                            job.pipelines, arguments.job.string()));
  return job;
}

struct RunResult {
  api::JobSummary summary;
  Failure failure;
};

Result<RunResult> run_once(const QuickstartArguments& arguments, const fs::path& tokens,
                           const std::string& name, bool break_it, Table& table) {
  ASSIGN_OR_RETURN(const conf::JobConfig job, make_job(arguments, tokens, name));
  PlaygroundOptions options;
  options.directory = arguments.directory / name;
  options.nodes = job.workers();
  ASSIGN_OR_RETURN(Playground playground, Playground::create(options, true));
  const auto work = [&]() -> Result<RunResult> {
    RETURN_IF_ERROR(playground.start_all());
    const Connection connection{playground.nodes().front().control_socket, false};
    boost::json::object request;
    request["job"] = boost::json::value_from(job);
    RETURN_IF_ERROR(post(connection, "/v1/jobs", request));
    RunResult result;
    ASSIGN_OR_RETURN(result.summary, follow(playground, job.steps, break_it, result.failure));
    if (break_it) RETURN_IF_ERROR(print_failure(playground, result.failure, table));
    return result;
  };
  auto result = work();
  const Status stopped = playground.stop_all();
  if (!result)
    return fail(with_context(result.error(), fmt::format("logs are in {}/node-*/",
                                                         options.directory.string())));
  RETURN_IF_ERROR(stopped);
  return result;
}

}  // namespace

Status run_quickstart(const QuickstartArguments& arguments) {
  const fs::path tokens = fs::absolute(arguments.directory / "text.tokens").lexically_normal();
  RETURN_IF_ERROR(make_job(arguments, tokens, "quickstart"));  // before anything is made or started
  std::error_code error;
  fs::create_directories(arguments.directory, error);
  if (error)
    return fail(ErrorCode::kFileIo,
                fmt::format("{}: {}", arguments.directory.string(), error.message()));
  train::PrepareOptions prepare;
  prepare.inputs = {arguments.data};
  prepare.output = tokens;
  prepare.max_bytes = kMaxTextBytes;
  ASSIGN_OR_RETURN(const train::PrepareReport report, train::prepare_tokens(prepare));
  fmt::print("text: {} of {}, {} files\n", bytes_text(report.tokens), arguments.data.string(),
             report.files);

  // From here on Ctrl-C has a cluster to stop.
  const sigset_t set = interrupts();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  Table table({"", ""});
  ASSIGN_OR_RETURN(const RunResult broken,
                   run_once(arguments, tokens, "quickstart", true, table));
  table.add({"final training loss", loss_text(broken.summary.train_loss)});
  table.add({"final held-out loss", loss_text(broken.summary.held_out_loss)});
  if (arguments.compare) {
    fmt::print("-- the same job, unbroken\n");
    Table unused({"", ""});
    ASSIGN_OR_RETURN(const RunResult unbroken,
                     run_once(arguments, tokens, "unbroken", false, unused));
    table.add({"held-out loss of an unbroken run", loss_text(unbroken.summary.held_out_loss)});
  }
  fmt::print("{}", table.text());
  fmt::print("\nThe cluster is shut down. Logs and events: {}\n",
             (arguments.directory / "quickstart").string());
  return {};
}

}  // namespace holdfast::ctl
