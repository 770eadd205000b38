// Telling systemd how the daemon is: READY=1, WATCHDOG=1, STOPPING=1 (sd_notify(3)). Does nothing
// when systemd did not start it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace holdfast::daemon {

void notify_systemd(std::string_view state);
// How often WATCHDOG=1 must be told, half of what systemd allows; nullopt: no watchdog.
std::optional<int64_t> watchdog_interval_ms();

}  // namespace holdfast::daemon
