// Starting, watching and ending processes that we started ourselves.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace holdfast::ctl {

struct ProcessOptions {
  std::filesystem::path program;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment;  // added to ours
  std::filesystem::path output;                                  // stdout and stderr, appended
};

// Starts it in a session of its own, so that Ctrl-C in our terminal does not reach it. kProcess.
Result<pid_t> start_process(const ProcessOptions& options);

// True while `pid` runs the program called `name` (a pid may have been given to another process).
bool process_runs(pid_t pid, const std::string& name);
// The live processes of that name that have these arguments, one after the other, in their command line.
std::vector<pid_t> processes_with(const std::string& name, const std::vector<std::string>& arguments);

// Waits until `pid` is gone, at most timeout_ms; reaps it when it is our child. False: still there.
bool wait_gone(pid_t pid, int64_t timeout_ms);

// The folder of the running program: holdfastd and holdfast-worker lie beside holdfastctl.
std::filesystem::path program_folder();

}  // namespace holdfast::ctl
