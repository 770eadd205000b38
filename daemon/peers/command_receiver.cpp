#include "daemon/peers/command_receiver.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "daemon/peers/codec.h"

namespace holdfast::daemon {

CommandReceiver::CommandReceiver(NodeId node, uint64_t session, Handler handler)
    : node_(std::move(node)), session_(session), handler_(std::move(handler)) {}

void CommandReceiver::attach(PeerServer& server) {
  server.route(
      std::string(kCommandsTarget),
      [this](const PeerRequest& request, const PeerReply& reply) { reply(receive(request.body)); });
}

Result<std::string> CommandReceiver::receive(const std::string& body) {
  ASSIGN_OR_RETURN(const auto post, from_json_text<CommandsPost>(body, "commands"));
  if (post.node != node_)
    return fail(ErrorCode::kBadMessage,
                fmt::format("commands for node {} came to node {}", post.node.value, node_.value));
  if (post.session != session_)
    return fail(ErrorCode::kEpochOld,
                fmt::format("commands for session {} of node {}, which is in session {}",
                            post.session, node_.value, session_));
  if (post.coordinator_session < coordinator_session_)
    return fail(ErrorCode::kEpochOld,
                fmt::format("commands of coordinator session {}, node {} knows a newer one ({})",
                            post.coordinator_session, node_.value, coordinator_session_));
  const bool same = post.coordinator_session == coordinator_session_;
  if (same && post.sequence <= last_sequence_)
    return fail(ErrorCode::kEpochOld, fmt::format("commands {} came to node {} after commands {}",
                                                  post.sequence, node_.value, last_sequence_));
  std::vector<NodeCommand> commands;
  for (const boost::json::value& json : post.commands) {
    ASSIGN_OR_RETURN(NodeCommand command, decode_command(json));
    commands.push_back(std::move(command));
  }
  coordinator_session_ = post.coordinator_session;
  last_sequence_ = post.sequence;
  for (const NodeCommand& command : commands) handler_(command);
  return "{}";
}

}  // namespace holdfast::daemon
