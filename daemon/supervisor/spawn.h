// Starting a worker process and holding on to one by its pidfd.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast::daemon {

struct SpawnRequest {
  std::filesystem::path program;
  std::filesystem::path state_dir;
  uint32_t slot = 0;
  std::string fault;  // HOLDFAST_FAULT of the worker; empty: none
};

struct Spawned {
  pid_t pid = 0;
  int pidfd = -1;
};

// The worker's log is state_dir/worker-<slot>.log; it is appended to, and set aside as .log.1 when it
// has grown large. kProcess naming program and reason.
Result<Spawned> spawn_worker(const SpawnRequest& request);

// What the worker finds in its environment: ours (`own`, as environ), without what is meant for us alone,
// `fault` for it, one thread for OpenBLAS and, where the processor has AMX, kernels that are fast there,
// unless OPENBLAS_CORETYPE is set.
std::vector<std::string> worker_environment(char* const* own, const std::string& fault, bool amx);

// kProcess when there is no such process.
Result<int> open_pidfd(pid_t pid);
// A process that the kernel takes down, or a zombie: it runs no more code of its own.
bool is_ending(pid_t pid);
// How a child ended, after its pidfd said so: "exit status 1", "signal 9 (Killed)". Reaps it.
std::string reap(int pidfd);

}  // namespace holdfast::daemon
