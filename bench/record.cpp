#include "bench/record.h"

#include <fmt/format.h>
#include <sched.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

namespace holdfast::bench {
namespace {

Status written(const std::ofstream& out, const std::filesystem::path& file) {
  if (out) return {};
  return fail(ErrorCode::kFileIo, fmt::format("write {}: {}", file.string(), std::strerror(errno)));
}

boost::json::value or_null(const std::string& text) {
  if (text.empty()) return nullptr;
  return boost::json::string(text);
}

}  // namespace

Status can_write(const std::filesystem::path& file) {
  if (file.empty()) return {};
  return written(std::ofstream(file, std::ios::app), file);
}

Status write_result(const std::filesystem::path& file, const std::string& text) {
  if (file.empty()) return {};
  std::ofstream out(file, std::ios::trunc);
  out << text;
  out.close();
  Status status = written(out, file);
  if (!status) fmt::print(stderr, "{}\n", text);
  return status;
}

std::string processor_of(const std::string& cpuinfo) {
  std::istringstream lines(cpuinfo);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    if (begin == std::string::npos) continue;
    return line.substr(begin, line.find_last_not_of(" \t") - begin + 1);
  }
  return {};
}

std::string scheduling_of(int policy) {
  switch (policy & ~SCHED_RESET_ON_FORK) {
    case SCHED_OTHER:
      return "other";
    case SCHED_FIFO:
      return "fifo";
    case SCHED_RR:
      return "rr";
    case SCHED_BATCH:
      return "batch";
    case SCHED_IDLE:
      return "idle";
    default:
      return policy < 0 ? std::string() : fmt::format("policy {}", policy);
  }
}

boost::json::object origin(const std::string& commit) {
  std::ifstream in("/proc/cpuinfo");
  const std::string cpuinfo{std::istreambuf_iterator<char>(in), {}};
  boost::json::object all;
  all["commit"] = or_null(commit);
  all["processor"] = or_null(processor_of(cpuinfo));
  all["scheduling"] = or_null(scheduling_of(sched_getscheduler(0)));
  return all;
}

}  // namespace holdfast::bench
