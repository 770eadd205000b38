#include "base/host_port.h"

#include <fmt/format.h>

#include <charconv>

namespace holdfast {

Result<HostPort> parse_host_port(std::string_view address) {
  const size_t colon = address.rfind(':');
  HostPort parsed;
  const auto bad = [&] {
    return fail(ErrorCode::kConfigValue,
                fmt::format("\"{}\" is not an address like 10.0.0.1:7400", address));
  };
  if (colon == std::string_view::npos || colon == 0) return bad();
  std::string_view host = address.substr(0, colon);
  const bool brackets = host.front() == '[' && host.back() == ']';
  if (brackets) host = host.substr(1, host.size() - 2);
  if (host.empty() || (!brackets && host.find(':') != std::string_view::npos)) return bad();
  const char* end = address.data() + address.size();
  const auto [rest, error] = std::from_chars(address.data() + colon + 1, end, parsed.port);
  if (error != std::errc() || rest != end) return bad();
  parsed.host = host;
  return parsed;
}

}  // namespace holdfast
