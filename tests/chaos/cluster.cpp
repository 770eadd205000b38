#include "tests/chaos/cluster.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <set>
#include <thread>

#include "base/json.h"
#include "daemon/control/client.h"
#include "train/data/prepare.h"

namespace holdfast::chaos {

namespace api = daemon::api;
namespace fs = std::filesystem;

namespace {

constexpr auto kPoll = std::chrono::milliseconds(10);

fs::path fresh_directory() {
  static std::atomic<int> count{0};
  const fs::path directory =
      fs::temp_directory_path() / fmt::format("holdfast-chaos-{}-{}", getpid(), ++count);
  fs::remove_all(directory);
  fs::create_directories(directory);
  return directory;
}

std::string tail_of(const fs::path& file, size_t bytes) {
  std::ifstream in(file);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (text.size() > bytes) text = "...\n" + text.substr(text.size() - bytes);
  return fmt::format("== {}\n{}\n", file.string(), text);
}

}  // namespace

Cluster::Cluster(const ClusterOptions& options) : directory_(fresh_directory()) {
  ctl::PlaygroundOptions playground;
  playground.directory = directory_;
  playground.nodes = options.nodes;
  playground.arena_bytes = uint64_t{64} << 20;
  playground.log_level = "debug";
  playground.daemon_grace_ms = options.daemon_grace_ms;
  playground.arena_wait_ms = options.arena_wait_ms;
  auto created = ctl::Playground::create(playground, true);
  if (!created) {
    ADD_FAILURE() << created.error().to_string();
    return;
  }
  playground_.emplace(std::move(*created));
}

Cluster::~Cluster() {
  if (playground_) {
    const Status stopped = playground_->stop_all();
    EXPECT_TRUE(stopped) << stopped.error().to_string();
  }
  if (testing::Test::HasFailure()) {
    fmt::print(stderr, "{}", logs());
  } else {
    std::error_code error;
    fs::remove_all(directory_, error);
  }
}

std::string Cluster::logs() {
  std::string out;
  for (const ctl::PlaygroundNode& node : playground_->nodes()) {
    out += tail_of(node.folder / "holdfastd.log", 6'000);
    out += tail_of(node.folder / "state" / "worker-0.log", 2'000);
  }
  return out;
}

bool Cluster::wait(const std::string& what, int64_t timeout_ms,
                   const std::function<bool()>& condition) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (std::chrono::steady_clock::now() < deadline) {
    if (condition()) return true;
    std::this_thread::sleep_for(kPoll);  // what is awaited happens in other processes
  }
  ADD_FAILURE() << "not within " << timeout_ms << " ms: " << what;
  return false;
}

Result<boost::json::value> Cluster::get(const std::string& target, const std::string& node) {
  return daemon::ControlClient(playground_->node(node).control_socket).call("GET", target, {}, 5'000);
}
Result<boost::json::value> Cluster::post(const std::string& target,
                                         const boost::json::value& body) {
  return daemon::ControlClient(playground_->nodes().front().control_socket)
      .call("POST", target, body, 10'000);
}

void Cluster::submit(const conf::JobConfig& job) {
  boost::json::object request;
  request["job"] = boost::json::value_from(job);
  const auto answer = post("/v1/jobs", request);
  ASSERT_TRUE(answer) << answer.error().to_string();
}

std::optional<api::Status> Cluster::status(const std::string& node) {
  const auto body = get("/v1/status", node);
  if (!body) return std::nullopt;
  auto status = from_json<api::Status>(*body, "status");
  if (!status) {
    ADD_FAILURE() << status.error().to_string();
    return std::nullopt;
  }
  return std::move(*status);
}

bool Cluster::wait_for_step(uint64_t step, int64_t timeout_ms) {
  return wait(fmt::format("step {}", step), timeout_ms, [&] {
    const auto now = status();
    return now && now->job && now->job->step >= step;
  });
}

bool Cluster::wait_for_safe(uint64_t version, int64_t timeout_ms) {
  return wait(fmt::format("version {} to be safe", version), timeout_ms, [&] {
    const auto now = status();
    return now && now->job && now->job->safe.version.value >= version;
  });
}

bool Cluster::wait_for_state(const std::string& state, int64_t timeout_ms) {
  std::string last;
  const bool reached = wait("job is " + state, timeout_ms, [&] {
    const auto now = status();
    if (now && now->job) last = now->job->state + ": " + now->job->detail;
    return now && now->job && now->job->state == state;
  });
  EXPECT_TRUE(reached) << "the job is " << last;
  return reached;
}

Result<std::vector<daemon::EventRecord>> Cluster::ask_events() {
  ASSIGN_OR_RETURN(const auto body, get("/v1/events?since=0&limit=10000"));
  return from_json<std::vector<daemon::EventRecord>>(body, "events");
}

std::vector<daemon::EventRecord> Cluster::events() {
  auto events = ask_events();
  EXPECT_TRUE(events) << events.error().to_string();
  return events ? std::move(*events) : std::vector<daemon::EventRecord>();
}

uint64_t Cluster::last_event() {
  const auto all = events();
  return all.empty() ? 0 : all.back().sequence;
}

std::string detail(const daemon::EventRecord& event, const std::string& name) {
  for (const auto& [key, value] : event.details)
    if (key == name) return value;
  return "";
}

std::optional<daemon::EventRecord> Cluster::wait_for_event(const std::string& kind, uint64_t since,
                                                           const std::string& node,
                                                           int64_t timeout_ms) {
  std::optional<daemon::EventRecord> found;
  wait(fmt::format("event {} {}", kind, node), timeout_ms, [&] {
    const auto all = ask_events();  // the coordinator may be away meanwhile
    if (!all) return false;
    for (const daemon::EventRecord& event : *all) {
      if (event.sequence <= since || event.kind != kind) continue;
      if (!node.empty() && detail(event, "node") != node) continue;
      found = event;
      return true;
    }
    return false;
  });
  return found;
}

Losses Cluster::losses(const std::string& job) {
  Losses losses;
  const auto body = get("/v1/jobs/" + job + "/steps?from=0&limit=100000");
  EXPECT_TRUE(body) << body.error().to_string();
  if (!body) return losses;
  const auto rows = from_json<std::vector<api::StepRow>>(*body, "steps");
  EXPECT_TRUE(rows) << rows.error().to_string();
  if (!rows) return losses;
  for (const api::StepRow& row : *rows)
    losses[row.step.value] = {row.loss, row.held_out_loss};
  return losses;
}

std::vector<daemon::LedgerRow> Cluster::ledger(const std::string& job) {
  const auto body = get("/v1/jobs/" + job + "/ledger?from=0&limit=1000000");
  EXPECT_TRUE(body) << body.error().to_string();
  if (!body) return {};
  auto rows = from_json<std::vector<daemon::LedgerRow>>(*body, "ledger");
  EXPECT_TRUE(rows) << rows.error().to_string();
  return rows ? std::move(*rows) : std::vector<daemon::LedgerRow>();
}

void Cluster::expect_exactly_once(const conf::JobConfig& job) {
  // Rows without a loss come from the plan: their reports were lost on the way, with a worker, a daemon
  // or the coordinator's process. A worker tells of its step before the version can become safe, so that
  // it is one step, or two, of each node that was cut off, each time.
  std::map<std::string, size_t> cut_off;
  std::set<std::string> up;
  for (const daemon::EventRecord& event : events()) {
    const std::string node = detail(event, "node");
    if (event.kind == "worker_lost" || event.kind == "node_suspected") ++cut_off[node];
    if (event.kind == "node_up" && !up.insert(node).second) ++cut_off[node];
  }
  std::map<std::pair<uint64_t, uint32_t>, std::multiset<uint32_t>> seen;  // by step and stage
  std::map<std::string, size_t> without_report;
  for (const daemon::LedgerRow& row : ledger(job.name.value)) {
    seen[{row.step.value, row.stage.value}].insert(row.micro_batches.begin(),
                                                   row.micro_batches.end());
    if (!row.loss) ++without_report[row.worker.node.value];
  }
  for (const auto& [node, rows] : without_report)
    EXPECT_LE(rows, 2 * cut_off[node]) << "rows of " << node << " come from the plan";
  std::multiset<uint32_t> all;
  for (uint32_t j = 0; j < job.pipelines * job.micro_batches; ++j) all.insert(j);
  for (uint64_t step = 0; step < job.steps; ++step)
    for (uint32_t stage = 0; stage < job.stages; ++stage)
      EXPECT_EQ((seen[{step, stage}]), all)
          << "exactly-once is broken in the ledger of step " << step << " at stage " << stage;
  EXPECT_EQ(seen.size(), job.steps * job.stages);
}

void Cluster::expect_no_loss() {
  for (const daemon::EventRecord& event : events())
    EXPECT_NE(event.kind, "went_below_safe") << event.text;
}

conf::JobConfig small_job(const fs::path& directory, bool reproducible, uint64_t steps) {
  const fs::path tokens = directory / "text.tokens";
  if (!fs::exists(tokens)) {
    train::PrepareOptions prepare;
    prepare.inputs = {HOLDFAST_SOURCE_DIR "/base", HOLDFAST_SOURCE_DIR "/daemon"};
    prepare.output = tokens;
    const auto report = train::prepare_tokens(prepare);
    EXPECT_TRUE(report) << report.error().to_string();
  }
  auto job = conf::load_job(HOLDFAST_SOURCE_DIR "/conf/jobs/tiny.toml", {.data = tokens.string()});
  EXPECT_TRUE(job) << job.error().to_string();
  if (!job) return {};
  job->reproducible = reproducible;
  job->steps = steps;
  job->pipelines = 4;
  return *job;
}

Losses run_unbroken(const conf::JobConfig& job, uint32_t nodes) {
  ClusterOptions options;
  options.nodes = nodes;
  Cluster cluster(options);
  const Status started = cluster.playground().start_all();
  EXPECT_TRUE(started) << started.error().to_string();
  conf::JobConfig own = job;
  own.data.path = small_job(cluster.directory(), job.reproducible, job.steps).data.path;
  cluster.submit(own);
  if (!cluster.wait_for_state("done")) return {};
  cluster.expect_exactly_once(own);
  Losses losses = cluster.losses(own.name.value);
  EXPECT_EQ(losses.size(), job.steps);
  return losses;
}

const Losses& unbroken_losses(const conf::JobConfig& job) {
  static std::map<std::pair<bool, uint64_t>, Losses> kept;
  auto [it, missing] = kept.try_emplace({job.reproducible, job.steps});
  if (missing) it->second = run_unbroken(job);
  return it->second;
}

}  // namespace holdfast::chaos
