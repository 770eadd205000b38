// Ports on the loopback address for daemons that are started on this machine.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/result.h"

namespace holdfast::ctl {

// [first, last): the ports to choose from, given the range [low, high] that the kernel takes from
// for connections that go out. They lie outside of it: a daemon that is down for a while must find
// its port free when it is started again, whatever its peers have connected to meanwhile.
std::pair<uint32_t, uint32_t> listening_range(uint32_t low, uint32_t high);

// `count` different ports that nobody listens on at this moment, from listening_range() of this
// machine. `start` says where the search begins, so that different playgrounds look in different
// places. kAddressInUse when there are not as many.
Result<std::vector<uint16_t>> choose_ports(uint32_t count, uint64_t start);

}  // namespace holdfast::ctl
