#include "base/host_port.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

TEST(HostPort, IsParsed) {
  EXPECT_EQ(parse_host_port("10.0.0.1:7400")->host, "10.0.0.1");
  EXPECT_EQ(parse_host_port("10.0.0.1:7400")->port, 7400);
  EXPECT_EQ(parse_host_port("[::1]:7400")->host, "::1");
  for (const char* bad :
       {"", "host", ":7400", "host:", "host:70000", "host:7x", "::1:7400", "[]:1"})
    EXPECT_EQ(parse_host_port(bad).error().code, ErrorCode::kConfigValue) << bad;
}

}  // namespace
}  // namespace holdfast
