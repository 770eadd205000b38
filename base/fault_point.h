// Named places where a test can make this process fail. HOLDFAST_FAULT="name" or "name:3" (the third
// time it is passed) sends SIGKILL to the process itself; "name:3:stop" sends SIGSTOP; "name:1:error"
// makes fault_point return true so that the caller fails as it would for a real cause. In
// "first:2+second:1" the passes of `second` count from the second pass of `first` on; only the last
// name of such a chain acts.
#pragma once

#include <string_view>

namespace holdfast {

// Costs one load of a flag when HOLDFAST_FAULT is not set. All names: docs/fault-points.md.
[[nodiscard]] bool fault_point_fails(std::string_view name);
inline void fault_point(std::string_view name) { (void)fault_point_fails(name); }

}  // namespace holdfast
