// A client that speaks bytes, for what a proper client never does.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "daemon/http/listener.h"

namespace holdfast::daemon::test {

class RawSocket {
 public:
  explicit RawSocket(const std::string& address) {
    const auto parsed = parse_host_port(address);
    if (!parsed) {
      ADD_FAILURE() << parsed.error().message;
      return;
    }
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(parsed->port);
    ::inet_pton(AF_INET, parsed->host.c_str(), &to.sin_addr);
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~RawSocket() { close(); }
  RawSocket(const RawSocket&) = delete;
  RawSocket& operator=(const RawSocket&) = delete;

  void send(const std::string& bytes) {
    EXPECT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // Appends what has arrived; true when the other side has closed.
  bool receive(std::string& into) {
    char bytes[4096];
    for (;;) {
      const ssize_t got = ::recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT);
      if (got > 0) {
        into.append(bytes, static_cast<size_t>(got));
        continue;
      }
      return got == 0 || (errno != EAGAIN && errno != EINTR);
    }
  }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

}  // namespace holdfast::daemon::test
