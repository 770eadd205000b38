#include "ctl/playground/ports.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace holdfast::ctl {
namespace {

constexpr uint32_t kFirstUnprivileged = 1024;
constexpr uint32_t kPorts = 65536;
constexpr uint32_t kEnough = 4096;
constexpr uint32_t kMostFrom = 20'000;  // no further down than this: other services live there

bool is_free(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  // As the daemon listens: connections of an earlier one that still linger do not matter.
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  const bool ok = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return ok;
}

}  // namespace

std::pair<uint32_t, uint32_t> listening_range(uint32_t low, uint32_t high) {
  if (low >= kMostFrom + kEnough) return {kMostFrom, low};
  if (high + 1 + kEnough <= kPorts) return {high + 1, kPorts};
  if (low >= kFirstUnprivileged + kEnough) return {kFirstUnprivileged, low};
  return {kFirstUnprivileged, kPorts};  // the kernel takes from everywhere: no better choice
}

Result<std::vector<uint16_t>> choose_ports(uint32_t count, uint64_t start) {
  uint32_t low = 32768, high = 60999;  // Linux's default
  std::ifstream range("/proc/sys/net/ipv4/ip_local_port_range");
  range >> low >> high;
  const auto [first, last] = listening_range(low, high);
  const uint32_t size = last - first;
  std::vector<uint16_t> ports;
  for (uint32_t i = 0; i < size && ports.size() < count; ++i) {
    const auto port = static_cast<uint16_t>(first + (start + i) % size);
    if (is_free(port)) ports.push_back(port);
  }
  if (ports.size() < count)
    return fail(ErrorCode::kAddressInUse,
                fmt::format("{} ports are needed on 127.0.0.1, {} of {} to {} are free", count,
                            ports.size(), first, last - 1));
  return ports;
}

}  // namespace holdfast::ctl
