// The log of a process. Only mains and event loops log; library code returns errors and reasons.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace holdfast {

// Lines go to stderr as "2026-01-31 12:00:00.123 name[level] text"; under systemd the journal takes
// them from there. `level`: trace, debug, info, warn, error.
void log_to_stderr(const std::string& process_name, const std::string& level);

namespace log = spdlog;

}  // namespace holdfast
