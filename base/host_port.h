// Addresses as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace holdfast {

struct HostPort {
  std::string host;  // a name or a number; IPv6 without its brackets
  uint16_t port = 0;
};
// "127.0.0.1:7400", "node-1:7400" or "[::1]:7400"; kConfigValue otherwise.
Result<HostPort> parse_host_port(std::string_view address);

}  // namespace holdfast
