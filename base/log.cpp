#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace holdfast {

void log_to_stderr(const std::string& process_name, const std::string& level) {
  auto logger = std::make_shared<spdlog::logger>(
      process_name, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %n[%l] %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace holdfast
