// Addresses, and sockets that listen on them. Plain POSIX: what fails is said by name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace holdfast::daemon {

struct HostPort {
  std::string host;  // a name or a number; IPv6 without its brackets
  uint16_t port = 0;
};
// "127.0.0.1:7400", "node-1:7400" or "[::1]:7400"; kConfigValue otherwise.
Result<HostPort> parse_host_port(std::string_view address);

// A listening descriptor and where it really listens; whoever takes it closes it.
struct ListeningSocket {
  int descriptor = -1;
  bool is_unix = false;
  std::string address;  // host:port with the port that was chosen, or the path
};

// kAddressInUse when another process listens there, kFileIo for anything else. Port 0 chooses one.
// A name is looked up here and now: only at start.
Result<ListeningSocket> listen_tcp(const std::string& address);

// Mode 0660. The socket that a dead process left there is replaced; one that answers is
// kAddressInUse, and so is a file of any other kind.
Result<ListeningSocket> listen_unix(const std::filesystem::path& path);

}  // namespace holdfast::daemon
