#include "daemon/service/seed_route.h"

#include <fmt/format.h>

#include "base/json.h"

namespace holdfast::daemon {

// The request of a person, as it travels between daemons.
struct ForwardedRequest {
  std::string method;
  std::string target;
  std::string body;
};
BOOST_DESCRIBE_STRUCT(ForwardedRequest, (), (method, target, body))

namespace {

constexpr const char* kForwardTarget = "/peer/v1/control";
constexpr int64_t kForwardTimeoutMs = 4'000;
constexpr int64_t kQuestionTimeoutMs = 25'000;  // a what-if of a large job makes several plans

int64_t timeout_ms_of(const std::string& target) {
  return target.starts_with("/v1/what-if") ? kQuestionTimeoutMs : kForwardTimeoutMs;
}

}  // namespace

void SeedRoute::serve(CoordinatorHost& host, PeerServer& peers) {
  routes_ = std::make_unique<ClusterRoutes>(host);
  peers.route(kForwardTarget, [this](const PeerRequest& request, PeerReply reply) {
    auto forwarded = from_json_text<ForwardedRequest>(request.body, kForwardTarget);
    if (!forwarded) return reply(tl::unexpected(forwarded.error()));
    HttpRequest http;
    http.method = std::move(forwarded->method);
    http.target = std::move(forwarded->target);
    http.body = std::move(forwarded->body);
    routes_->handle(http, std::move(reply));
  });
}

void SeedRoute::ask(const HttpRequest& request, ControlAnswer answer) {
  if (routes_) return routes_->handle(request, std::move(answer));
  if (!connected_())
    return answer(fail(ErrorCode::kPeerUnreachable,
                       fmt::format("the coordinator's node on {} does not answer", seed_address_)));
  calls_.request(seed_address_, kForwardTarget,
                 to_json_text(ForwardedRequest{request.method, request.target, request.body}),
                 timeout_ms_of(request.target), std::move(answer));
}

}  // namespace holdfast::daemon
