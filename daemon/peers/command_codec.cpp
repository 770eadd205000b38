#include "daemon/peers/codec.h"
#include "daemon/peers/variant_codec.h"

namespace holdfast::daemon {
namespace {

// In the order of NodeCommand.
constexpr TypeNames<7> kCommandNames = {"CommandQuiesce", "CommandRestore",   "CommandGo",
                                        "CommandCapture", "CommandWatermark", "CommandStopAt",
                                        "CommandEndJob"};

}  // namespace

boost::json::value encode_command(const NodeCommand& command) {
  return encode_variant(command, kCommandNames);
}
Result<NodeCommand> decode_command(const boost::json::value& json) {
  return decode_variant<NodeCommand>(json, kCommandNames);
}

}  // namespace holdfast::daemon
