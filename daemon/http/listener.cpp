#include "daemon/http/listener.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace holdfast::daemon {
namespace {

constexpr mode_t kSocketMode = 0660;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

tl::unexpected<Error> cannot(std::string_view what, std::string_view where, int error) {
  const ErrorCode code = error == EADDRINUSE ? ErrorCode::kAddressInUse : ErrorCode::kFileIo;
  return fail(code, fmt::format("cannot {} {}: {}", what, where, std::strerror(error)));
}

Result<std::string> bound_address(int descriptor, const std::string& asked) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  auto* address = reinterpret_cast<sockaddr*>(&bound);
  if (::getsockname(descriptor, address, &size) != 0) return cannot("name", asked, errno);
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  const int looked_up = ::getnameinfo(address, size, host, sizeof(host), port, sizeof(port),
                                      NI_NUMERICHOST | NI_NUMERICSERV);
  if (looked_up != 0)
    return fail(ErrorCode::kFileIo,
                fmt::format("cannot name {}: {}", asked, ::gai_strerror(looked_up)));
  return bound.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                     : fmt::format("{}:{}", host, port);
}

// Makes room for a new socket at `path`, or says who is in the way.
Status clear_unix_path(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0)
    return errno == ENOENT ? Status() : Status(cannot("look at", path, errno));
  if (!S_ISSOCK(info.st_mode))
    return fail(ErrorCode::kAddressInUse, fmt::format("{} exists and is not a socket", path));
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (probe.get() < 0) return cannot("open a socket for", path, errno);
  const int connected =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  if (connected == 0 || errno == EAGAIN)
    return fail(ErrorCode::kAddressInUse, fmt::format("another process listens on {}", path));
  if (errno != ECONNREFUSED) return cannot("probe", path, errno);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return cannot("replace", path, errno);
  return {};
}

}  // namespace

Result<ListeningSocket> listen_tcp(const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort parsed, parse_host_port(address));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int looked_up =
      ::getaddrinfo(parsed.host.c_str(), std::to_string(parsed.port).c_str(), &hints, &list);
  if (looked_up != 0)
    return fail(ErrorCode::kFileIo,
                fmt::format("cannot listen on {}: {}", address, ::gai_strerror(looked_up)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(list, &::freeaddrinfo);
  Descriptor socket(::socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) return cannot("open a socket for", address, errno);
  const int yes = 1;
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (::bind(socket.get(), list->ai_addr, list->ai_addrlen) != 0)
    return cannot("listen on", address, errno);
  if (::listen(socket.get(), SOMAXCONN) != 0) return cannot("listen on", address, errno);
  ASSIGN_OR_RETURN(std::string bound, bound_address(socket.get(), address));
  return ListeningSocket{socket.release(), false, std::move(bound)};
}

Result<ListeningSocket> listen_unix(const std::filesystem::path& path) {
  const std::string name = path.string();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.size() >= sizeof(address.sun_path))
    return fail(ErrorCode::kFileIo, fmt::format("the socket path {} is longer than {} bytes", name,
                                                sizeof(address.sun_path) - 1));
  std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  RETURN_IF_ERROR(clear_unix_path(name, address));
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) return cannot("open a socket for", name, errno);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return cannot("listen on", name, errno);
  // Nobody can connect between bind and listen, so nobody sees the mode that umask made.
  if (::chmod(name.c_str(), kSocketMode) != 0) return cannot("set the mode of", name, errno);
  if (::listen(socket.get(), SOMAXCONN) != 0) return cannot("listen on", name, errno);
  return ListeningSocket{socket.release(), true, name};
}

}  // namespace holdfast::daemon
