// Errors on the wire: {"error": {"code": "HF-801", "name": "job_exists", "message": "..."}} under
// an HTTP status that fits. Control socket and peers use the same form.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace holdfast::daemon {

int http_status(ErrorCode code);  // 4xx or 5xx
std::string encode_error_body(const Error& error);

// The error that a response of another status than 200 carries. A body that is no such error gives
// kBadMessage with the status and `what` was asked.
Error decode_error_body(int status, std::string_view body, std::string_view what);

}  // namespace holdfast::daemon
