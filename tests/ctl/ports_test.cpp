#include "ctl/playground/ports.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <set>

namespace holdfast::ctl {
namespace {

using Range = std::pair<uint32_t, uint32_t>;

TEST(Ports, TheyLieOutsideOfTheRangeForOutgoingConnections) {
  EXPECT_EQ(listening_range(32768, 60999), Range(20000, 32768));
  EXPECT_EQ(listening_range(10000, 50000), Range(50001, 65536));
  EXPECT_EQ(listening_range(15000, 65535), Range(1024, 15000));
  EXPECT_EQ(listening_range(1024, 65535), Range(1024, 65536));
}

TEST(Ports, AreDifferentAndOutsideOfThisMachinesRange) {
  uint32_t low = 0, high = 0;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> low >> high;
  ASSERT_GT(high, low);
  const auto [first, last] = listening_range(low, high);
  // From the last port of the range the search goes on at its first.
  const auto ports = choose_ports(8, last - first - 1);
  ASSERT_TRUE(ports) << ports.error().to_string();
  EXPECT_EQ(std::set<uint16_t>(ports->begin(), ports->end()).size(), 8u);
  for (const uint16_t port : *ports) {
    EXPECT_GE(port, first);
    EXPECT_LT(port, last);
  }
}

TEST(Ports, OneThatIsListenedOnIsPassedOver) {
  const auto before = choose_ports(1, 17);
  ASSERT_TRUE(before) << before.error().to_string();
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(before->front());
  ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  const auto after = choose_ports(1, 17);
  ::close(fd);
  ASSERT_TRUE(after) << after.error().to_string();
  EXPECT_NE(after->front(), before->front());
}

TEST(Ports, MoreThanThereAreIsAnErrorThatSaysHowMany) {
  const auto ports = choose_ports(70'000, 0);
  ASSERT_FALSE(ports);
  EXPECT_EQ(ports.error().code, ErrorCode::kAddressInUse);
  EXPECT_NE(ports.error().message.find("70000 ports are needed"), std::string::npos);
}

}  // namespace
}  // namespace holdfast::ctl
