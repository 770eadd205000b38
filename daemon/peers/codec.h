// Events and commands as JSON, {"type": "NodeUp", "body": {...}}, and back. kBadMessage for
// anything that the same release would not write. Events and commands are compiled apart: each is
// long.
#pragma once

#include <boost/json/value.hpp>

#include "base/result.h"
#include "daemon/coordinator/types.h"

namespace holdfast::daemon {

boost::json::value encode_event(const NodeEvent& event);
Result<NodeEvent> decode_event(const boost::json::value& json);

boost::json::value encode_command(const NodeCommand& command);
Result<NodeCommand> decode_command(const boost::json::value& json);

}  // namespace holdfast::daemon
