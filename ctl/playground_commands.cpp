#include <fmt/format.h>
#include <signal.h>

#include "conf/node_config.h"
#include "conf/range.h"
#include "ctl/commands.h"
#include "ctl/playground/playground.h"

namespace holdfast::ctl {
namespace {

void print_how_to_use(const Playground& playground, const std::string& directory) {
  const PlaygroundNode& seed = playground.nodes().front();
  fmt::print("{} nodes run in {}\n", playground.nodes().size(), directory);
  fmt::print("  export HOLDFAST_SOCKET={}\n", seed.control_socket.string());
  fmt::print("  holdfastctl status\n");
}

Status wait_for_interrupt() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  int signal = 0;
  if (sigwait(&set, &signal) != 0) return fail(ErrorCode::kInternal, "sigwait failed");
  return {};
}

}  // namespace

Status run_playground(const PlaygroundArguments& arguments) {
  // Blocked before anything starts, so that Ctrl-C during the start still ends what was started.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  if (!arguments.detach) pthread_sigmask(SIG_BLOCK, &set, nullptr);

  PlaygroundOptions options;
  options.directory = arguments.directory;
  options.nodes = arguments.nodes;
  ASSIGN_OR_RETURN(options.arena_bytes, conf::parse_bytes(arguments.arena_size));
  RETURN_IF_ERROR(conf::in_range("--arena", options.arena_bytes, conf::kLeastArenaBytes,
                                 conf::kMostArenaBytes));
  ASSIGN_OR_RETURN(Playground playground, Playground::create(options, false));
  if (const Status started = playground.start_all(); !started) {
    (void)playground.stop_all();
    return started;
  }
  print_how_to_use(playground, arguments.directory.string());
  if (arguments.detach) {
    fmt::print("  holdfastctl playground stop --dir {}\n", arguments.directory.string());
    return {};
  }
  fmt::print("Ctrl-C ends it\n");
  std::fflush(stdout);
  RETURN_IF_ERROR(wait_for_interrupt());
  fmt::print("\nstopping\n");
  // Nodes may have been killed or started from another terminal meanwhile.
  ASSIGN_OR_RETURN(Playground now, Playground::open(arguments.directory));
  return now.stop_all();
}

Status stop_playground(const PlaygroundArguments& arguments) {
  ASSIGN_OR_RETURN(Playground playground, Playground::open(arguments.directory));
  RETURN_IF_ERROR(playground.stop_all());
  fmt::print("stopped\n");
  return {};
}

Status kill_playground_node(const PlaygroundArguments& arguments) {
  ASSIGN_OR_RETURN(Playground playground, Playground::open(arguments.directory));
  if (!playground.has_node(arguments.node))
    return fail(ErrorCode::kNotFound, fmt::format("no node {} in {}", arguments.node,
                                                  arguments.directory.string()));
  return playground.kill_node(arguments.node);
}

Status start_playground_node(const PlaygroundArguments& arguments) {
  ASSIGN_OR_RETURN(Playground playground, Playground::open(arguments.directory));
  if (!playground.has_node(arguments.node))
    return fail(ErrorCode::kNotFound, fmt::format("no node {} in {}", arguments.node,
                                                  arguments.directory.string()));
  return playground.start_node(arguments.node);
}

}  // namespace holdfast::ctl
