// What peers say to each other: HTTP POST with a JSON body. Every request carries the headers
// X-Holdfast-Cluster and X-Holdfast-Release; errors come as daemon/http/error_body.h writes them.
//
// A node greets its seed with an events request of sequence 0 and no events; then come 1, 2, ... on
// the same connection, the first event being NodeUp. When that connection ends, so does the
// numbering: the node greets again and everything starts from its present state.
#pragma once

#include <boost/describe.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/json.h"
#include "base/result.h"
#include "daemon/http/messages.h"

namespace holdfast::daemon {

inline constexpr std::string_view kEventsTarget = "/peer/v1/events";
inline constexpr std::string_view kCommandsTarget = "/peer/v1/commands";
inline constexpr size_t kMaxBatch = 256;                   // events or commands in a request
inline constexpr size_t kMaxBatchBytes = size_t{1} << 20;  // unless a single one is longer
inline constexpr int64_t kMinPeerTimeoutMs = 2'000;        // a request is given at least that

// Who may talk to each other: the same cluster on the same release.
struct PeerIdentity {
  std::string cluster;
  std::string release;
};

struct EventsPost {
  NodeId node;
  uint64_t session = 0;   // of the node's daemon: its start, wall clock in ms
  uint64_t sequence = 0;  // on this connection
  std::vector<boost::json::value> events;
};
BOOST_DESCRIBE_STRUCT(EventsPost, (), (node, session, sequence, events))

struct EventsReply {
  NodeId node;                       // the seed
  uint64_t coordinator_session = 0;  // of its daemon
};
BOOST_DESCRIBE_STRUCT(EventsReply, (), (node, coordinator_session))

struct CommandsPost {
  NodeId node;  // to whom, and to which of its lives
  uint64_t session = 0;
  uint64_t coordinator_session = 0;
  uint64_t sequence = 0;  // rises within a coordinator_session
  std::vector<boost::json::value> commands;
};
BOOST_DESCRIBE_STRUCT(CommandsPost, (), (node, session, coordinator_session, sequence, commands))

// kClusterForeign or kClusterVersion, naming both sides.
Status check_identity(const HttpHeaders& headers, const PeerIdentity& own);
HttpCall make_peer_call(const PeerIdentity& own, std::string_view target, std::string body,
                        int64_t timeout_ms);
// The body of a 200, or the error that the peer answered.
Result<std::string> peer_result(Result<HttpResponse> response, std::string_view what);

}  // namespace holdfast::daemon
