#include "ctl/playground/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

extern char** environ;

namespace holdfast::ctl {
namespace {

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> merged_environment(
    const std::vector<std::pair<std::string, std::string>>& added) {
  std::vector<std::string> out;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string_view entry(*e);
    bool replaced = false;
    for (const auto& [key, value] : added) replaced |= entry.starts_with(key + "=");
    if (!replaced) out.emplace_back(entry);
  }
  for (const auto& [key, value] : added) out.push_back(key + "=" + value);
  return out;
}

}  // namespace

Result<pid_t> start_process(const ProcessOptions& options) {
  std::vector<std::string> arguments{options.program.string()};
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> environment = merged_environment(options.environment);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, options.output.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);  // what we block must still reach it

  pid_t pid = -1;
  const int code = posix_spawn(&pid, options.program.c_str(), &actions, &attributes,
                               pointers(arguments).data(), pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (code != 0)
    return fail(ErrorCode::kProcess,
                fmt::format("cannot start {}: {}", options.program.string(), std::strerror(code)));
  return pid;
}

bool process_runs(pid_t pid, const std::string& name) {
  std::ifstream comm(fmt::format("/proc/{}/comm", pid));
  std::string found;
  if (!std::getline(comm, found) || found != name.substr(0, 15)) return false;
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(stat, text);
  const size_t close = text.rfind(')');
  return close != std::string::npos && close + 2 < text.size() && text[close + 2] != 'Z';
}

std::vector<pid_t> processes_with(const std::string& name,
                                  const std::vector<std::string>& arguments) {
  std::string wanted(1, '\0');
  for (const std::string& argument : arguments) wanted += argument + '\0';
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string number = entry.path().filename().string();
    if (number.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto pid = static_cast<pid_t>(std::stol(number));
    if (!process_runs(pid, name)) continue;
    std::ifstream file(entry.path() / "cmdline");
    const std::string line{std::istreambuf_iterator<char>(file), {}};
    if (line.find(wanted) != std::string::npos) found.push_back(pid);
  }
  return found;
}

bool wait_gone(pid_t pid, int64_t timeout_ms) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return errno == ESRCH;
  pollfd waited{fd, POLLIN, 0};
  const int ready = poll(&waited, 1, static_cast<int>(timeout_ms));
  ::close(fd);
  if (ready <= 0) return false;
  waitpid(pid, nullptr, WNOHANG);
  return true;
}

std::filesystem::path program_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

}  // namespace holdfast::ctl
