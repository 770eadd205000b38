#include "base/ids.h"

#include <fmt/format.h>

namespace holdfast {

std::string to_string(Coordinate coordinate) {
  return fmt::format("({},{})", coordinate.pipeline.value, coordinate.stage.value);
}
std::string to_string(Epoch epoch) { return fmt::format("{}.{}", epoch.incarnation, epoch.number); }
std::string to_string(ShardId shard) {
  return fmt::format("g{}/s{}", shard.group.value, shard.slice.value);
}
std::string to_string(const StateVersion& state) {
  return fmt::format("v{}@{}", state.version.value, to_string(state.made));
}

}  // namespace holdfast
