#include "base/clock.h"

#include <chrono>

namespace holdfast {
namespace {
template <class C>
int64_t ms_of() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(C::now().time_since_epoch()).count();
}
}  // namespace

int64_t SystemClock::monotonic_ms() const { return ms_of<std::chrono::steady_clock>(); }
int64_t SystemClock::wall_ms() const { return ms_of<std::chrono::system_clock>(); }

}  // namespace holdfast
