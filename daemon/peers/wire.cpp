#include "daemon/peers/wire.h"

#include <fmt/format.h>

#include <utility>

#include "daemon/http/error_body.h"

namespace holdfast::daemon {
namespace {

constexpr std::string_view kClusterHeader = "X-Holdfast-Cluster";
constexpr std::string_view kReleaseHeader = "X-Holdfast-Release";

}  // namespace

Status check_identity(const HttpHeaders& headers, const PeerIdentity& own) {
  const std::string_view cluster = find_header(headers, kClusterHeader);
  if (cluster != own.cluster)
    return fail(ErrorCode::kClusterForeign,
                fmt::format("this node is of cluster \"{}\", the request came from cluster \"{}\"",
                            own.cluster, cluster));
  const std::string_view release = find_header(headers, kReleaseHeader);
  if (release != own.release)
    return fail(ErrorCode::kClusterVersion,
                fmt::format("this node runs release \"{}\", the request came from release \"{}\"",
                            own.release, release));
  return {};
}

HttpCall make_peer_call(const PeerIdentity& own, std::string_view target, std::string body,
                        int64_t timeout_ms) {
  return {"POST",
          std::string(target),
          {{std::string(kClusterHeader), own.cluster}, {std::string(kReleaseHeader), own.release}},
          std::move(body),
          timeout_ms};
}

Result<std::string> peer_result(Result<HttpResponse> response, std::string_view what) {
  if (!response) return fail(std::move(response).error());
  if (response->status != 200)
    return fail(decode_error_body(response->status, response->body, what));
  return std::move(response->body);
}

}  // namespace holdfast::daemon
