#include "daemon/supervisor/spawn.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

extern char** environ;

namespace holdfast::daemon {
namespace {

constexpr uint64_t kLogLimit = uint64_t{16} << 20;

// AMX for bf16, which newer Xeons have.
bool has_amx() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1U << 22)) != 0;
#else
  return false;
#endif
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

Result<int> open_log(const SpawnRequest& request) {
  const std::filesystem::path path =
      request.state_dir / fmt::format("worker-{}.log", request.slot);
  std::error_code ignored;  // a missing log is no reason not to start
  if (std::filesystem::file_size(path, ignored) > kLogLimit && !ignored)
    std::filesystem::rename(path, path.string() + ".1", ignored);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
  if (fd < 0)
    return fail(ErrorCode::kProcess, fmt::format("{}: {}", path.string(), strerror(errno)));
  return fd;
}

// In the child: only what is safe between fork and exec in a process with threads.
[[noreturn]] void become_worker(const char* program, char* const* arguments, char* const* env,
                                int log, int report) {
  ::setsid();  // a terminal's Ctrl-C is for the daemon
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null >= 0) ::dup2(null, STDIN_FILENO);
  // libfabric's descriptors are not close-on-exec.
  if (report > 3) ::syscall(SYS_close_range, 3, report - 1, 0);
  ::syscall(SYS_close_range, report + 1, ~0U, 0);
  ::execve(program, arguments, env);
  const int error = errno;
  [[maybe_unused]] const ssize_t told = ::write(report, &error, sizeof error);
  ::_exit(127);
}

}  // namespace

std::vector<std::string> worker_environment(char* const* own, const std::string& fault, bool amx) {
  std::vector<std::string> all;
  bool chosen = false;
  for (; *own != nullptr; ++own) {
    const std::string_view text(*own);
    // The daemon's own faults are not the worker's.
    if (text.starts_with("HOLDFAST_FAULT=") || text.starts_with("HOLDFAST_WORKER_FAULT=") ||
        text.starts_with("NOTIFY_SOCKET=") || text.starts_with("OPENBLAS_NUM_THREADS="))
      continue;
    chosen = chosen || text.starts_with("OPENBLAS_CORETYPE=");
    all.emplace_back(text);
  }
  all.emplace_back("OPENBLAS_NUM_THREADS=1");
  // OpenBLAS 0.3.21's kernels for processors with AMX take eight times as long for our products.
  if (amx && !chosen) all.emplace_back("OPENBLAS_CORETYPE=SkylakeX");
  if (!fault.empty()) all.push_back("HOLDFAST_FAULT=" + fault);
  return all;
}

Result<int> open_pidfd(pid_t pid) {
  const auto fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0)
    return fail(ErrorCode::kProcess, fmt::format("process {}: {}", pid, strerror(errno)));
  return fd;
}

Result<Spawned> spawn_worker(const SpawnRequest& request) {
  std::vector<std::string> arguments = {request.program.string(), "--state-dir",
                                        request.state_dir.string(), "--slot",
                                        fmt::to_string(request.slot)};
  std::vector<std::string> env = worker_environment(environ, request.fault, has_amx());
  const std::vector<char*> argv = pointers(arguments), envp = pointers(env);
  ASSIGN_OR_RETURN(const int log, open_log(request));
  int report[2];
  if (::pipe2(report, O_CLOEXEC) != 0) {
    const int error = errno;
    ::close(log);
    return fail(ErrorCode::kProcess, fmt::format("pipe: {}", strerror(error)));
  }
  const pid_t pid = ::fork();
  const int fork_error = errno;
  if (pid == 0) become_worker(argv[0], argv.data(), envp.data(), log, report[1]);
  ::close(log);
  ::close(report[1]);
  int exec_error = 0;
  // The pipe closes with exec; only a failure writes into it.
  const bool failed = pid > 0 && ::read(report[0], &exec_error, sizeof exec_error) > 0;
  ::close(report[0]);
  if (pid < 0)
    return fail(ErrorCode::kProcess, fmt::format("fork: {}", strerror(fork_error)));
  if (failed) {
    ::waitpid(pid, nullptr, 0);
    return fail(ErrorCode::kProcess, fmt::format("{} cannot be started: {}",
                                                 request.program.string(), strerror(exec_error)));
  }
  auto pidfd = open_pidfd(pid);
  if (!pidfd) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return fail(std::move(pidfd).error());
  }
  return Spawned{pid, *pidfd};
}

bool is_ending(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  // pid (name) state ppid pgrp session tty tpgid flags ...; a name may hold spaces and brackets.
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  char state = 0;
  int64_t skipped = 0;
  uint64_t flags = 0;
  rest >> state;
  for (int i = 0; i < 5; ++i) rest >> skipped;
  rest >> flags;
  constexpr uint64_t kExiting = 0x4;  // PF_EXITING of the kernel's sched.h
  return rest && (state == 'Z' || state == 'X' || (flags & kExiting) != 0);
}

std::string reap(int pidfd) {
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED) != 0)
    return fmt::format("cannot be waited for: {}", strerror(errno));
  if (info.si_code == CLD_EXITED) return fmt::format("exit status {}", info.si_status);
  return fmt::format("signal {} ({})", info.si_status, strsignal(info.si_status));
}

}  // namespace holdfast::daemon
