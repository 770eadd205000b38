// Bytes travel in JSON as base64 (RFC 4648, with padding): communicator addresses, ranges of shards.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace holdfast::train {

std::string to_base64(std::string_view bytes);
// kBadMessage for anything that to_base64 does not produce.
Result<std::string> from_base64(std::string_view text);

}  // namespace holdfast::train
