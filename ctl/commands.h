// The commands of holdfastctl. Each prints its result to stdout and returns an Error otherwise; main
// turns the error into a message on stderr and the exit code of docs/errors.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "ctl/plan/request.h"

namespace holdfast::ctl {

struct Connection {
  std::filesystem::path socket;
  bool json = false;  // -o json
};

// cluster_commands.cpp
Status show_status(const Connection& connection);
Status list_nodes(const Connection& connection);
Status list_snapshots(const Connection& connection);
struct EventsOptions {
  bool follow = false;
  uint64_t since = 0;
  uint64_t limit = 50;
};
Status show_events(const Connection& connection, const EventsOptions& options);

// what_if_command.cpp
struct WhatIfArguments {
  std::string fail;  // "node-1,node-2"
};
Status show_what_if(const Connection& connection, const WhatIfArguments& arguments);

// export_command.cpp
struct ExportOptions {
  std::string job;
  std::string format;
  std::filesystem::path out;
  std::string dtype = "float32";  // or "bf16"
};
Status export_snapshot(const Connection& connection, const ExportOptions& options);

// job_commands.cpp
struct SubmitOptions {
  std::filesystem::path file;
  std::string data;  // overrides data.path
  std::string name;  // overrides name
  std::optional<uint64_t> steps;  // overrides steps
  bool wait = false;
};
Status submit_job(const Connection& connection, const SubmitOptions& options);
Status list_jobs(const Connection& connection);
Status show_job(const Connection& connection, const std::string& job);
Status stop_job(const Connection& connection, const std::string& job, bool wait);
Status resume_job(const Connection& connection, const std::string& job, bool wait);
Status remove_job(const Connection& connection, const std::string& job);
Status show_job_steps(const Connection& connection, const std::string& job, uint64_t from,
                      uint64_t limit);
Status show_job_logs(const Connection& connection, const std::string& job, uint64_t lines);

// data_commands.cpp
struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path output;
  std::string max_size = "0";  // "64MiB"; 0: everything
};
Status prepare_data(const Connection& connection, const PrepareOptions& options);

// plan_command.cpp: needs no daemon
Status show_plan(const PlanArguments& arguments);

// playground_commands.cpp
struct PlaygroundArguments {
  std::filesystem::path directory;
  uint32_t nodes = 4;
  std::string arena_size = "256MiB";
  bool detach = false;
  std::string node;  // kill-node, start-node
};
Status run_playground(const PlaygroundArguments& arguments);
Status stop_playground(const PlaygroundArguments& arguments);
Status kill_playground_node(const PlaygroundArguments& arguments);
Status start_playground_node(const PlaygroundArguments& arguments);

// quickstart.cpp
struct QuickstartArguments {
  std::filesystem::path directory;
  std::filesystem::path data = "/usr/include";
  std::filesystem::path job;  // empty: conf/jobs/quickstart.toml beside the program's share folder
  std::optional<uint64_t> steps;  // instead of the job file's
  bool compare = false;
};
Status run_quickstart(const QuickstartArguments& arguments);

}  // namespace holdfast::ctl
