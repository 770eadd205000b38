// Sockets that listen on an address. Plain POSIX: what fails is said by name.
#pragma once

#include <filesystem>
#include <string>

#include "base/host_port.h"
#include "base/result.h"

namespace holdfast::daemon {

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
