// Requests and responses as plain values, so that nobody outside this folder sees the HTTP library.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace holdfast::daemon {

inline constexpr uint64_t kMaxHttpBodyBytes = uint64_t{16} << 20;
inline constexpr std::string_view kJsonType = "application/json";
inline constexpr std::string_view kJsonLinesType = "application/x-ndjson";

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// The value of a header, names compared without case; empty when there is none.
std::string_view find_header(const HttpHeaders& headers, std::string_view name);

struct HttpRequest {
  uint64_t connection = 0;  // numbers the connections of one server, from 1
  std::string method;       // "GET"
  std::string target;       // "/v1/events?since=3"
  HttpHeaders headers;
  std::string body;

  std::string_view path() const;  // the target without its query
  // The value of `name` in the query; empty when there is none. Escapes are not decoded.
  std::string_view query(std::string_view name) const;
};

struct HttpResponse {
  int status = 0;
  std::string content_type;
  std::string body;
};

// What a client asks for.
struct HttpCall {
  std::string method = "GET";
  std::string target;
  HttpHeaders headers;
  std::string body;
  int64_t timeout_ms = 5'000;  // from the moment it is queued to its complete response
};

}  // namespace holdfast::daemon
