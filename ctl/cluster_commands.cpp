#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cstdio>
#include <ctime>

#include "base/json.h"
#include "ctl/commands.h"
#include "ctl/printing.h"
#include "ctl/table.h"
#include "daemon/control/api.h"
#include "daemon/control/client.h"

namespace holdfast::ctl {
namespace {

namespace api = daemon::api;

std::string wall_text(int64_t wall_ms) {
  const std::time_t seconds = wall_ms / 1000;
  return fmt::format("{:%H:%M:%S}.{:03}", fmt::localtime(seconds), wall_ms % 1000);
}

void print_event(const daemon::EventRecord& event) {
  fmt::print("{:>6}  {}  {:<18} {}\n", event.sequence, wall_text(event.wall_ms), event.kind,
             event.text);
}

}  // namespace

Status show_status(const Connection& connection) {
  ASSIGN_OR_RETURN(const boost::json::value body, get(connection, "/v1/status"));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const api::Status status, from_json<api::Status>(body, "status"));
  const api::LocalStatus& local = status.local;
  fmt::print("node     {}{}, Holdfast {}, cluster {}\n", local.node.value,
             local.seed ? " (seed, runs the coordinator)" : "", local.release, local.cluster);
  fmt::print("arena    {} of {} used, {} blocks, {}\n", bytes_text(local.arena.used_bytes),
             bytes_text(local.arena.size_bytes), local.arena.blocks, local.arena.path);
  for (const api::WorkerStatus& worker : local.workers)
    fmt::print("worker   {}: pid {}, {}, step {}\n", worker.slot, worker.pid, worker.phase,
               worker.step.value);
  if (!local.coordinator_reachable) {
    fmt::print("cluster  the coordinator cannot be reached; training goes on, views cannot change\n");
    return {};
  }
  fmt::print("cluster  {} of {} nodes up, epoch {}, {}\n", status.nodes_up, status.nodes_known,
             to_string(local.epoch), status.phase);
  if (!status.job) {
    fmt::print("job      none\n");
    return {};
  }
  print_job_line(*status.job);
  return {};
}

Status list_nodes(const Connection& connection) {
  ASSIGN_OR_RETURN(const boost::json::value body, get(connection, "/v1/nodes"));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto nodes, from_json<std::vector<api::Node>>(body, "nodes"));
  Table table({"NODE", "STATE", "DOMAIN", "ADDRESS", "LANE", "PIPELINE", "STAGE", "WORKER", "SHARDS",
               "REPLICAS ON", "ARENA"});
  for (const api::Node& node : nodes) {
    std::string holders;
    for (const NodeId& holder : node.holders)
      holders += (holders.empty() ? "" : ",") + holder.value;
    const auto& place = node.coordinate;
    const std::string pipeline = place ? std::to_string(place->pipeline.value) : "-";
    const std::string stage = place ? std::to_string(place->stage.value) : "-";
    table.add({node.node.value, node.state, node.failure_domain, node.peer_address,
               number_or_dash(node.lane), pipeline, stage, node.worker,
               std::to_string(node.shards_owned), holders.empty() ? "-" : holders,
               bytes_text(node.arena_bytes)});
  }
  std::fputs(table.text().c_str(), stdout);
  return {};
}

Status list_snapshots(const Connection& connection) {
  ASSIGN_OR_RETURN(const boost::json::value body, get(connection, "/v1/snapshots"));
  if (connection.json) return print_json(body);
  ASSIGN_OR_RETURN(const auto held, from_json<api::Snapshots>(body, "snapshots"));
  if (held.snapshots.empty()) {
    fmt::print("{} holds no snapshots\n", held.node.value);
    return {};
  }
  fmt::print("job {}, safe version {}, held by {}:\n", held.job, to_string(held.safe),
             held.node.value);
  Table table({"VERSION", "MADE IN", "SAFE", "OWN SHARDS", "REPLICAS", "SIZE"});
  for (const api::Snapshot& s : held.snapshots)
    table.add({std::to_string(s.state.version.value), to_string(s.state.made),
               s.safe ? "yes" : "no", std::to_string(s.own_shards),
               std::to_string(s.replica_shards), bytes_text(s.bytes)});
  std::fputs(table.text().c_str(), stdout);
  return {};
}

Status show_events(const Connection& connection, const EventsOptions& options) {
  const std::string target =
      fmt::format("/v1/events?since={}&limit={}", options.since, options.limit);
  if (!options.follow) {
    ASSIGN_OR_RETURN(const boost::json::value body, get(connection, target));
    if (connection.json) return print_json(body);
    ASSIGN_OR_RETURN(const auto events,
                     from_json<std::vector<daemon::EventRecord>>(body, "events"));
    for (const daemon::EventRecord& event : events) print_event(event);
    return {};
  }
  daemon::ControlClient client(connection.socket);
  return client.stream("GET", target + "&follow=1", [&](std::string_view line) {
    if (connection.json) {
      fmt::print("{}\n", line);
    } else if (auto event = from_json_text<daemon::EventRecord>(line, "event")) {
      print_event(*event);
    }
    std::fflush(stdout);
    return true;
  });
}

}  // namespace holdfast::ctl
