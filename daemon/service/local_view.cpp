#include "daemon/service/local_view.h"

#include <fmt/format.h>

#include <boost/describe/enum_to_string.hpp>
#include <iterator>
#include <map>

namespace holdfast::daemon {
namespace {

std::string phase_text(train::WorkerPhase phase) {
  const std::string name = boost::describe::enum_to_string(phase, "kUnknown");
  std::string text = name.substr(1);
  if (!text.empty()) text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return text;
}

// One metric with its type line.
void metric(std::string& out, const char* name, const char* type, const char* help, double value) {
  fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} {2}\n{0} {3}\n", name, help,
                 type, value);
}

}  // namespace

api::LocalStatus local_status(const LocalView& view) {
  api::LocalStatus status;
  status.node = view.config.name;
  status.release = HOLDFAST_RELEASE;
  status.cluster = view.config.cluster.name;
  status.seed = view.config.cluster.seed == view.config.listen;
  status.epoch = view.agent.epoch();
  const storage::ArenaUsage usage = view.arena.usage();
  status.arena = {view.config.arena.path.string(), usage.size_bytes, usage.used_bytes,
                  usage.blocks};
  for (const WorkerReport& report : view.agent.worker_reports()) {
    const auto process = view.supervisor.status(report.slot);
    if (process.pid == 0) continue;
    status.workers.push_back({report.slot, process.pid,
                              report.alive ? phase_text(report.phase) : "starting", report.step});
  }
  return status;
}

api::Snapshots local_snapshots(const LocalView& view) {
  api::Snapshots all;
  all.node = view.config.name;
  all.safe = view.agent.safe();
  const NodeJob* job = view.agent.job();
  if (job != nullptr) all.job = job->config.name.value;
  std::map<StateVersion, api::Snapshot> by_state;
  for (const storage::BlockInfo& block : view.arena.scan()) {
    if (!block.header || (job != nullptr && block.header->job != job->hash)) continue;
    api::Snapshot& snapshot = by_state[block.header->state];
    snapshot.state = block.header->state;
    snapshot.safe = block.header->state == all.safe;
    (block.writer == view.config.name ? snapshot.own_shards : snapshot.replica_shards) += 1;
    snapshot.bytes += block.header->length;
  }
  for (auto& [state, snapshot] : by_state) all.snapshots.push_back(snapshot);
  return all;
}

std::string local_metrics(const LocalView& view, const CoordinatorHost* coordinator) {
  std::string out;
  const storage::ArenaUsage usage = view.arena.usage();
  metric(out, "holdfast_arena_size_bytes", "gauge", "Size of the arena.",
         static_cast<double>(usage.size_bytes));
  metric(out, "holdfast_arena_used_bytes", "gauge", "Bytes allocated or published in the arena.",
         static_cast<double>(usage.used_bytes));
  metric(out, "holdfast_arena_blocks", "gauge", "Blocks allocated or published in the arena.",
         usage.blocks);
  metric(out, "holdfast_arena_granted_blocks", "gauge",
         "Blocks that a worker or another node may write and that are not published.",
         usage.granted_blocks);
  metric(out, "holdfast_arena_granted_bytes", "gauge", "Bytes of those blocks.",
         static_cast<double>(usage.granted_bytes));
  metric(out, "holdfast_coordinator_connected", "gauge",
         "1 while this node is connected to the coordinator.", view.link.connected() ? 1 : 0);
  double restarts = 0, hangs = 0, alive = 0;
  for (const WorkerReport& report : view.agent.worker_reports()) {
    const auto process = view.supervisor.status(report.slot);
    restarts += static_cast<double>(process.restarts);
    hangs += static_cast<double>(process.hangs);
    alive += report.alive ? 1 : 0;
  }
  metric(out, "holdfast_workers_alive", "gauge", "Training processes that obey this daemon.",
         alive);
  metric(out, "holdfast_worker_restarts_total", "counter", "Workers started again after an end.",
         restarts);
  metric(out, "holdfast_worker_hangs_total", "counter", "Workers killed because they hung.", hangs);
  const SnapshotCounters& snapshots = view.agent.snapshots();
  metric(out, "holdfast_snapshots_skipped_total", "counter",
         "Captures that this node was asked for and could not keep.",
         static_cast<double>(snapshots.skipped));
  metric(out, "holdfast_snapshot_stall_seconds_total", "counter",
         "Time that updates on this node waited for captures.", snapshots.stall_seconds);
  metric(out, "holdfast_snapshot_captured_bytes_total", "counter",
         "Bytes that workers of this node captured into the arena.",
         static_cast<double>(snapshots.captured_bytes));
  metric(out, "holdfast_snapshot_capture_seconds_total", "counter",
         "Time that captures took on this node, beside training.", snapshots.capture_seconds);
  if (coordinator == nullptr) return out;

  const Coordinator& c = coordinator->coordinator();
  double up = 0;
  for (const auto& [id, node] : c.nodes()) up += node.state == NodeState::kUp ? 1 : 0;
  metric(out, "holdfast_nodes_up", "gauge", "Nodes that are up.", up);
  metric(out, "holdfast_views_total", "counter", "View changes begun by this process.",
         static_cast<double>(c.counters().views));
  metric(out, "holdfast_events_fenced_total", "counter",
         "Reports of an old epoch or session, without effect.",
         static_cast<double>(c.counters().events_fenced));
  metric(out, "holdfast_captures_named_total", "counter", "Versions that were to be captured.",
         static_cast<double>(c.counters().captures_named));
  metric(out, "holdfast_captures_safe_total", "counter", "Captures that became safe.",
         static_cast<double>(c.counters().captures_safe));
  metric(out, "holdfast_captures_abandoned_total", "counter", "Captures that were given up.",
         static_cast<double>(c.counters().captures_abandoned));
  metric(out, "holdfast_ledger_rows_sealed_total", "counter", "Ledger rows that became final.",
         static_cast<double>(c.counters().rows_sealed));
  metric(out, "holdfast_ledger_rows_voided_total", "counter",
         "Ledger rows that a view change took back.", static_cast<double>(c.counters().rows_voided));
  metric(out, "holdfast_ledger_rows_inferred_total", "counter",
         "Ledger rows sealed from the plan, as the report was lost with its node.",
         static_cast<double>(c.counters().rows_inferred));
  metric(out, "holdfast_tokens_dropped_total", "counter",
         "Choices beyond capacity, in all steps that were reported.",
         static_cast<double>(coordinator->steps().tokens_dropped()));
  metric(out, "holdfast_records_waiting", "gauge",
         "Events and ledger rows that wait in memory for a catalog that refuses them.",
         static_cast<double>(coordinator->records().waiting()));
  metric(out, "holdfast_records_lost_total", "counter",
         "Events and ledger rows that found no room to wait.",
         static_cast<double>(coordinator->records().lost()));
  if (c.view() == nullptr) return out;
  metric(out, "holdfast_lanes", "gauge", "Live lanes of the running job.",
         static_cast<double>(c.view()->members.size()));
  metric(out, "holdfast_step", "gauge", "Newest version made by the running job.",
         static_cast<double>(c.newest_version().value));
  metric(out, "holdfast_safe_step", "gauge", "Newest version that outlives tolerated failures.",
         static_cast<double>(c.safe().version.value));
  metric(out, "holdfast_tokens_per_second", "gauge", "Training speed, smoothed.",
         coordinator->steps().tokens_per_second());
  return out;
}

}  // namespace holdfast::daemon
