// holdfastctl: what people drive Holdfast with.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "conf/job_config.h"
#include "conf/toml_table.h"
#include "ctl/commands.h"

namespace holdfast::ctl {
namespace {

using Action = std::function<Status()>;

// The command that was named on the command line; CLI11 calls back in parse, we run it afterwards so
// that errors leave by one door.
struct Chosen {
  Action action;
};

constexpr const char* kFooter =
    "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 wrong state or conflict,\n"
    "5 daemon or peer unreachable, 6 timed out, 7 damaged or foreign data, 8 out of room.\n"
    "The daemon is chosen by --socket, else HOLDFAST_SOCKET, else /run/holdfast/control.sock.";

// Digits only, from `least` to `most`: CLI11 alone takes "-1" for a large number.
CLI::Validator whole(uint64_t least, uint64_t most = UINT64_MAX) {
  return CLI::Validator(
      [least, most](std::string& text) {
        uint64_t value = 0;
        const char* end = text.data() + text.size();
        const auto [rest, code] = std::from_chars(text.data(), end, value);
        if (code == std::errc() && rest == end && value >= least && value <= most)
          return std::string();
        return most == UINT64_MAX
                   ? fmt::format("{} is not a whole number from {} on", text, least)
                   : fmt::format("{} is not a whole number from {} to {}", text, least, most);
      },
      "");
}
constexpr uint64_t kMostSteps = uint64_t{1} << 40;

CLI::Validator job_name() {
  return CLI::Validator(
      [](std::string& text) {
        if (conf::valid_name(text)) return std::string();
        return fmt::format("\"{}\" is no job name: 1 to 64 letters, digits, '-', '_' or '.'", text);
      },
      "");
}

void add_output(CLI::App& command, Connection& connection) {
  command
      .add_option_function<std::string>(
          "-o,--output", [&connection](const std::string& kind) { connection.json = kind == "json"; },
          "table (default) or json")
      ->check(CLI::IsMember({"table", "json"}));
}

CLI::App& leaf(CLI::App& parent, const std::string& name, const std::string& text, Chosen& chosen,
               Action action) {
  CLI::App& command = *parent.add_subcommand(name, text);
  command.callback([&chosen, action = std::move(action)] { chosen.action = action; });
  return command;
}

void add_snapshots(CLI::App& app, Connection& c, Chosen& chosen, ExportOptions& a) {
  CLI::App& snapshot =
      *app.add_subcommand("snapshot", "Snapshots in memory")->require_subcommand(1);
  add_output(leaf(snapshot, "list", "What this node's arena holds, by version", chosen,
                  [&c] { return list_snapshots(c); }),
             c);
  CLI::App& to = leaf(snapshot, "export", "Write a job's newest safe version as a model", chosen,
                      [&c, &a] { return export_snapshot(c, a); });
  to.add_option("JOB", a.job, "The job's name")->required()->check(job_name());
  to.add_option("--format", a.format, "hf: Hugging Face Mixtral, safetensors and config.json")
      ->required()
      ->check(CLI::IsMember({"hf"}));
  to.add_option("--out", a.out, "The folder to make; one that is there must be empty")->required();
  to.add_option("--dtype", a.dtype, "float32 or bf16")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bf16"}));
  add_output(to, c);
}

CLI::Validator node_names() {
  return CLI::Validator(
      [](std::string& text) {
        for (size_t begin = 0; begin <= text.size();) {
          const size_t end = std::min(text.find(',', begin), text.size());
          const std::string name = text.substr(begin, end - begin);
          if (!conf::valid_name(name)) return fmt::format("\"{}\" is no node's name", name);
          begin = end + 1;
        }
        return std::string();
      },
      "");
}

void add_what_if(CLI::App& app, Connection& c, Chosen& chosen, WhatIfArguments& a) {
  CLI::App& command = leaf(app, "what-if", "What would follow if nodes died now", chosen,
                           [&c, &a] { return show_what_if(c, a); });
  command.add_option("--fail", a.fail, "The nodes, as node-1,node-2")
      ->required()
      ->check(node_names());
  add_output(command, c);
}

void add_cluster(CLI::App& app, Connection& c, Chosen& chosen, EventsOptions& events) {
  add_output(leaf(app, "status", "This node, the cluster and its job", chosen,
                  [&c] { return show_status(c); }),
             c);
  CLI::App& node = *app.add_subcommand("node", "Nodes of the cluster")->require_subcommand(1);
  add_output(leaf(node, "list", "Every node, its lane and worker", chosen,
                  [&c] { return list_nodes(c); }),
             c);
  CLI::App& e = leaf(app, "events", "What happened, newest last", chosen,
                     [&c, &events] { return show_events(c, events); });
  add_output(e, c);
  e.add_flag("-f,--follow", events.follow, "Go on printing new events until interrupted");
  e.add_option("--since", events.since, "Only events from this number on")->check(whole(0));
  e.add_option("-n,--limit", events.limit, "At most this many old events")
      ->capture_default_str()
      ->check(whole(1));
}

struct JobArguments {
  SubmitOptions submit;
  std::string name;
  bool wait = false;
  uint64_t from = 0;
  uint64_t limit = 1000;
  uint64_t lines = 50;
};

void add_jobs(CLI::App& app, Connection& c, Chosen& chosen, JobArguments& a) {
  CLI::App& job = *app.add_subcommand("job", "Training jobs")->require_subcommand(1);
  CLI::App& submit = leaf(job, "submit", "Start a job from a job file (conf/jobs/*.toml)", chosen,
                          [&c, &a] { return submit_job(c, a.submit); });
  submit.add_option("FILE", a.submit.file, "The job file")->required();
  submit.add_option("--data", a.submit.data, "Token file, instead of data.path");
  submit.add_option("--name", a.submit.name, "Job name, instead of the file's");
  submit.add_option("--steps", a.submit.steps, "Steps, instead of the file's")
      ->check(whole(1, kMostSteps));
  submit.add_flag("--wait", a.submit.wait, "Return when the job has ended, with its result");
  add_output(submit, c);
  add_output(leaf(job, "list", "Every job", chosen, [&c] { return list_jobs(c); }), c);

  const auto named = [&](const char* name, const char* text, Action action) -> CLI::App& {
    CLI::App& command = leaf(job, name, text, chosen, std::move(action));
    command.add_option("JOB", a.name, "The job's name")->required()->check(job_name());
    add_output(command, c);
    return command;
  };
  named("show", "One job: state, view, configuration", [&c, &a] { return show_job(c, a.name); });
  named("stop", "Stop at the next step boundary, with a safe snapshot",
        [&c, &a] { return stop_job(c, a.name, a.wait); })
      .add_flag("--wait", a.wait, "Return when it has stopped");
  named("resume", "Go on from the newest state that the cluster holds",
        [&c, &a] { return resume_job(c, a.name, a.wait); })
      .add_flag("--wait", a.wait, "Return when the job has ended");
  named("remove", "Forget a job that has ended or is stopped, and its state in memory",
        [&c, &a] { return remove_job(c, a.name); });
  CLI::App& steps = named("steps", "Finished steps with their losses",
                          [&c, &a] { return show_job_steps(c, a.name, a.from, a.limit); });
  steps.add_option("--from", a.from, "First step")->check(whole(0));
  steps.add_option("-n,--limit", a.limit, "At most this many")
      ->capture_default_str()
      ->check(whole(1));
  named("logs", "The log of this node's worker", [&c, &a] {
    return show_job_logs(c, a.name, a.lines);
  }).add_option("-n,--lines", a.lines, "The last lines")->capture_default_str()->check(whole(1));
}

void add_data(CLI::App& app, Connection& c, Chosen& chosen, PrepareOptions& a) {
  CLI::App& data = *app.add_subcommand("data", "Training data")->require_subcommand(1);
  CLI::App& prepare = leaf(data, "prepare", "Make a token file (bytes) from files or folders", chosen,
                           [&c, &a] { return prepare_data(c, a); });
  prepare.add_option("INPUT", a.inputs, "Files or folders of text")->required();
  prepare.add_option("--out", a.output, "The token file to write")->required();
  prepare.add_option("--max-size", a.max_size, "Stop after this much text, as 64MiB");
  add_output(prepare, c);
}

void add_plan(CLI::App& app, Chosen& chosen, PlanArguments& a) {
  CLI::App& plan = leaf(app, "plan", "The rounds of a step on the live lanes, and what they take",
                        chosen, [&a] { return show_plan(a); });
  plan.add_option("--pipelines", a.pipelines, "D")->required()->check(whole(1, 1024));
  plan.add_option("--stages", a.stages, "S")->required()->check(whole(1, 256));
  plan.add_option("--micro-batches", a.micro_batches, "M, of one pipeline")
      ->required()
      ->check(whole(1, 4096));
  plan.add_option("--fail", a.fail, "Dead lanes as d:s,d:s, pipeline and stage from 0");
  plan.add_option("--caps", a.caps, "Micro-batches a lane may hold, for all or one a stage");
  plan.add_option("--costs", a.costs, "F,I,W,comm,update; for each stage with / between");
  plan.add_option("--expert-share", a.expert_share, "Share of experts in F, I and W")
      ->check(CLI::Range(0.0, 1.0));
  plan.add_option("--stage-bytes", a.stage_bytes, "State of a lane, as 20GiB, for moves");
  plan.add_option("--policy", a.policy, "1f1b, reroute, split or staggered")
      ->capture_default_str()
      ->check(CLI::IsMember({"1f1b", "reroute", "split", "staggered"}));
  plan.add_option("--solver", a.solver, "fast, or exact for small problems")
      ->capture_default_str()
      ->check(CLI::IsMember({"fast", "exact"}));
  plan.add_option("--solver-seconds", a.seconds, "How long the exact solver may take")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 86'400.0));
  plan.add_option("-o,--output", a.output, "table, json, svg (a chart) or trace (for Perfetto)")
      ->capture_default_str()
      ->check(CLI::IsMember({"table", "json", "svg", "trace"}));
}

void add_playground(CLI::App& app, Chosen& chosen, PlaygroundArguments& a, QuickstartArguments& q) {
  CLI::App& p = *app.add_subcommand("playground", "A cluster on this machine, to try things out");
  p.require_subcommand(0, 1);
  p.add_option("--dir", a.directory, "Folder for its nodes");
  p.add_option("--nodes", a.nodes, "How many")->capture_default_str()->check(whole(1, 64));
  p.add_option("--arena", a.arena_size, "Snapshot memory of each node")->capture_default_str();
  p.add_flag("--detach", a.detach, "Return when it is up; `playground stop` ends it");
  p.callback([&p, &a, &chosen] {
    if (!p.get_subcommands().empty()) return;
    if (a.directory.empty()) throw CLI::RequiredError("--dir");
    chosen.action = [&a] { return run_playground(a); };
  });
  const auto on_folder = [&](const char* name, const char* text, Action action) -> CLI::App& {
    CLI::App& command = leaf(p, name, text, chosen, std::move(action));
    command.add_option("--dir", a.directory, "Folder of the playground")->required();
    return command;
  };
  on_folder("stop", "End it, with everything that it runs", [&a] { return stop_playground(a); });
  on_folder("kill-node", "SIGKILL a node's daemon and worker",
            [&a] { return kill_playground_node(a); })
      .add_option("NODE", a.node, "Its name, as node-2")
      ->required();
  on_folder("start-node", "Start a node's daemon again", [&a] { return start_playground_node(a); })
      .add_option("NODE", a.node, "Its name, as node-2")
      ->required();

  CLI::App& quick = leaf(app, "quickstart", "Train on real text, lose a node on the way, go on",
                         chosen, [&q] { return run_quickstart(q); });
  quick.add_option("--dir", q.directory, "Folder for data, cluster and logs")
      ->required()
      ->take_last();
  quick.add_option("--data", q.data, "File or folder of text")->capture_default_str();
  quick.add_option("--job", q.job, "Job file")->required()->take_last();
  quick.add_option("--steps", q.steps, "Steps, instead of the job file's")
      ->check(whole(1, kMostSteps));
  quick.add_flag("--compare", q.compare, "Run the same job unbroken too");
}

// CLI11 only says that a subcommand is required: name the word that is none, and the one meant.
std::string missing_command(const CLI::App& app) {
  const CLI::App* at = &app;
  std::string path;
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    path += at->get_name() + " ";
  }
  std::set<std::string> known;
  for (const CLI::App* command : at->get_subcommands([](const CLI::App*) { return true; }))
    known.insert(command->get_name());
  const std::vector<std::string> words = app.remaining(true);
  if (words.empty()) {
    const std::string of = path.empty() ? "" : path.substr(0, path.size() - 1) + ": ";
    return fmt::format("{}a command is missing: {}", of, fmt::join(known, ", "));
  }
  std::string text = fmt::format("there is no command {}{}", path, words.front());
  if (const auto near = conf::nearest(words.front(), known))
    text += fmt::format(", did you mean {}{}?", path, *near);
  return text;
}

int run(int argc, char** argv) {
  CLI::App app("holdfastctl: drive a Holdfast cluster", "holdfastctl");
  app.require_subcommand(1);
  app.footer(kFooter);
  app.set_version_flag("--version", HOLDFAST_RELEASE);
  Connection connection{"/run/holdfast/control.sock", false};
  app.add_option("--socket", connection.socket, "Control socket of the daemon to talk to")
      ->envname("HOLDFAST_SOCKET");
  app.fallthrough();

  Chosen chosen;
  EventsOptions events;
  ExportOptions exported;
  JobArguments jobs;
  PrepareOptions prepare;
  PlaygroundArguments playground;
  QuickstartArguments quickstart;
  PlanArguments plan;
  WhatIfArguments what_if;
  add_what_if(app, connection, chosen, what_if);
  add_cluster(app, connection, chosen, events);
  add_snapshots(app, connection, chosen, exported);
  add_jobs(app, connection, chosen, jobs);
  add_data(app, connection, chosen, prepare);
  add_plan(app, chosen, plan);
  add_playground(app, chosen, playground, quickstart);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    const bool command = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr &&
                         std::string_view(error.what()).find("subcommand") != std::string_view::npos;
    const Error usage{ErrorCode::kUsage, command ? missing_command(app) : error.what()};
    std::fprintf(stderr, "holdfastctl: %s\n", usage.to_string().c_str());
    return error_row(ErrorCode::kUsage).exit_code;
  }
  if (!chosen.action) return error_row(ErrorCode::kUsage).exit_code;
  const Status status = chosen.action();
  if (status) return 0;
  std::fprintf(stderr, "holdfastctl: %s\n", status.error().to_string().c_str());
  return error_row(status.error().code).exit_code;
}

}  // namespace
}  // namespace holdfast::ctl

int main(int argc, char** argv) { return holdfast::ctl::run(argc, argv); }
