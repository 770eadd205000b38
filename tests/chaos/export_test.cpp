// `holdfastctl snapshot export` on real clusters: what it writes is what the arenas hold, also of a
// node that is lost, and training goes on beside it.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>

#include "ctl/printing.h"
#include "storage/arena/arena.h"
#include "tests/chaos/failures.h"
#include "tests/ctl/program.h"
#include "tests/reference/hf_model.h"

namespace holdfast::chaos {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Export : public testing::Test {
 protected:
  void start(uint64_t steps) {
    const Status started = cluster_.playground().start_all();
    ASSERT_TRUE(started) << started.error().to_string();
    job_ = small_job(cluster_.directory(), false, steps);
  }
  void stop_at_step(uint64_t step) {
    cluster_.submit(job_);
    ASSERT_TRUE(cluster_.wait_for_step(step));
    const auto stopping = cluster_.post("/v1/jobs/tiny/stop", boost::json::object());
    ASSERT_TRUE(stopping) << stopping.error().to_string();
    ASSERT_TRUE(cluster_.wait_for_state("stopped"));
  }
  fs::path at(const std::string& name) const { return cluster_.directory() / name; }
  test::Ended run(const std::string& out, std::vector<std::string> more = {},
                  const std::string& node = "node-0") {
    std::vector<std::string> arguments = {"snapshot", "export", "tiny",          "--format",
                                          "hf",       "--out",  at(out).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto& socket = cluster_.playground().node(node).control_socket;
    return test::Program("holdfastctl", arguments, at("output"),
                         {"HOLDFAST_SOCKET=" + socket.string()})
        .wait(60'000);
  }
  std::string model(const std::string& out) const {
    return test::read_whole(at(out) / "model.safetensors");
  }

  // The flat vector of every group at the safe version, from the arenas themselves.
  test::Groups master_weights() {
    const auto body = cluster_.get("/v1/jobs/tiny");
    EXPECT_TRUE(body) << body.error().to_string();
    const auto safe = ctl::member<daemon::api::JobSummary>(*body, "summary")->safe;
    const uint64_t key = std::stoull(*ctl::member<std::string>(*body, "key"), nullptr, 16);
    const train::ParameterLayout layout(job_.model, job_.slices());
    test::Groups groups;
    for (const train::GroupSpec& group : layout.groups())
      groups.emplace_back(group.elements, std::nanf(""));
    for (const ctl::PlaygroundNode& node : cluster_.playground().nodes()) {
      const auto now = cluster_.status(node.name);
      EXPECT_TRUE(now);
      const auto arena = storage::ArenaMapping::map(now->local.arena.path);
      EXPECT_TRUE(arena) << arena.error().to_string();
      for (uint32_t i = 0; i < 4'096; ++i) {
        const auto block = (*arena)->info(storage::BlockIndex(i));
        if (!block || !block->header || block->header->job != key || block->header->state != safe)
          continue;
        const auto payload = (*arena)->read_verified(block->index, *block->header);
        EXPECT_TRUE(payload) << payload.error().to_string();
        const train::ElementRange range = layout.range(block->header->shard);
        std::memcpy(groups[block->header->shard.group.value].data() + range.begin, payload->data(),
                    range.size() * sizeof(float));
      }
    }
    return groups;
  }

  // Tensors lie in the file as the groups follow each other.
  void expect_holds(const std::string& out, const test::Groups& groups) const {
    std::string flat;
    for (const auto& group : groups) {
      flat.append(reinterpret_cast<const char*>(group.data()), group.size() * sizeof(float));
      for (const float value : group) EXPECT_TRUE(std::isfinite(value));
    }
    size_t bytes = 0;
    for (const auto& [name, data] : test::read_tensors(at(out) / "model.safetensors"))
      bytes += data.size();
    EXPECT_EQ(bytes, flat.size());
    const std::string all = model(out);
    ASSERT_GT(all.size(), flat.size());
    EXPECT_EQ(all.substr(all.size() - flat.size()), flat);
  }

  Cluster cluster_{ClusterOptions{}};
  conf::JobConfig job_;
};

TEST_F(Export, AStoppedJobIsWrittenElementByElement) {
  start(10'000);
  stop_at_step(30);
  const test::Ended ended = run("model");
  ASSERT_EQ(ended.code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("of float32 in 1 file"));
  const test::Groups groups = master_weights();
  expect_holds("model", groups);
  const std::string all = model("model");
  if (!test::python_agrees(at("model"), job_.model, groups))
    fmt::print("PyTorch is not installed: logits are not compared\n");

  // Whoever is asked, and when a node is lost: its shards come from the replicas.
  ASSERT_EQ(run("elsewhere", {}, "node-3").code, 0);
  EXPECT_EQ(model("elsewhere"), all);
  ASSERT_TRUE(cluster_.playground().kill_node("node-2"));
  const test::Ended without = run("without", {"-o", "json"});
  ASSERT_EQ(without.code, 0) << without.output;
  EXPECT_THAT(without.output, HasSubstr("\"dtype\":\"float32\""));
  EXPECT_EQ(model("without"), all);
  ASSERT_EQ(run("rounded", {"--dtype", "bf16"}).code, 0);
  EXPECT_EQ(test::read_tensors(at("rounded") / "model.safetensors").size(),
            test::read_tensors(at("model") / "model.safetensors").size());
  EXPECT_LT(model("rounded").size(), all.size() * 2 / 3);
}

TEST_F(Export, FewerSlicesThanPipelinesAreWrittenToo) {
  start(10'000);
  job_.shards = 3;
  stop_at_step(20);
  const test::Ended ended = run("model");
  ASSERT_EQ(ended.code, 0) << ended.output;
  expect_holds("model", master_weights());
}

TEST_F(Export, TrainingGoesOnBesideIt) {
  start(300);
  cluster_.submit(job_);
  ASSERT_TRUE(cluster_.wait_for_step(50));
  for (int i = 0; i < 3; ++i) {
    const test::Ended ended = run(fmt::format("model-{}", i));
    ASSERT_EQ(ended.code, 0) << ended.output;
    const auto file = at(fmt::format("model-{}", i)) / "model.safetensors";
    for (const auto& [name, bytes] : test::read_tensors(file)) {
      std::vector<float> values(bytes.size() / sizeof(float));
      std::memcpy(values.data(), bytes.data(), bytes.size());
      for (const float value : values) ASSERT_TRUE(std::isfinite(value)) << name;
    }
  }
  ASSERT_TRUE(cluster_.wait_for_state("done"));
  cluster_.expect_exactly_once(job_);
  cluster_.expect_no_loss();
}

TEST_F(Export, WhatCannotBeWrittenIsSaidAndNothingIsLeft) {
  start(20);
  const test::Ended unknown = run("model");
  EXPECT_EQ(unknown.code, 3) << unknown.output;
  EXPECT_THAT(unknown.output, HasSubstr("HF-802 job_unknown"));

  job_.snapshot.policy = "none";
  job_.snapshot.replicas = 0;
  cluster_.submit(job_);
  ASSERT_TRUE(cluster_.wait_for_state("done"));
  const test::Ended none = run("model");
  EXPECT_EQ(none.code, 4) << none.output;
  EXPECT_THAT(none.output, HasSubstr("HF-803 job_state: job tiny has no safe version yet"));

  ASSERT_TRUE(cluster_.post("/v1/jobs/tiny/remove", boost::json::object()));
  job_.snapshot = {};
  job_.model.top_k = 1;
  cluster_.submit(job_);
  ASSERT_TRUE(cluster_.wait_for_state("done"));
  const test::Ended top1 = run("model");
  EXPECT_EQ(top1.code, 2) << top1.output;
  EXPECT_THAT(top1.output, HasSubstr("HF-105 model_shape: Mixtral cannot express model.top_k = 1"));
  EXPECT_FALSE(fs::exists(at("model")));

  fs::create_directory(at("full"));
  std::ofstream(at("full") / "mine") << "text";
  const test::Ended full = run("full");
  EXPECT_EQ(full.code, 2) << full.output;
  EXPECT_THAT(full.output, HasSubstr("exists and is not empty"));
  EXPECT_EQ(test::read_whole(at("full") / "mine"), "text");
  for (const auto& entry : fs::directory_iterator(cluster_.directory()))
    EXPECT_NE(entry.path().extension(), ".new") << entry.path();
}

}  // namespace
}  // namespace holdfast::chaos
