// The trainer against losses that tests/reference/reference.py computed with PyTorch.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "base/json.h"
#include "train/comm/in_process.h"
#include "train/data/prepare.h"
#include "train/model/parameter_layout.h"
#include "train/step/trainer.h"

namespace holdfast::train {

struct GoldenRun {
  std::vector<double> loss, gradient_norm;
  double held_out = 0;
};
BOOST_DESCRIBE_STRUCT(GoldenRun, (), (loss, gradient_norm, held_out))
struct Golden {
  GoldenRun top1, top2;
};
BOOST_DESCRIBE_STRUCT(Golden, (), (top1, top2))

namespace {

const std::filesystem::path kSource = HOLDFAST_SOURCE_DIR;

class GoldenTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "holdfast-golden-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    ASSERT_TRUE(prepare_tokens({{kSource / "LICENSE"}, folder_ / "text.tokens", 0}));
    std::ifstream in(kSource / "tests/reference/golden.json");
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    auto golden = from_json_text<Golden>(text, "golden.json");
    ASSERT_TRUE(golden) << golden.error().to_string();
    golden_ = *golden;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void expect_reproduced(uint32_t top_k, const GoldenRun& golden) {
    auto job = conf::load_job(kSource / "conf/jobs/tiny.toml",
                              {.data = (folder_ / "text.tokens").string()});
    ASSERT_TRUE(job) << job.error().to_string();
    job->model.top_k = top_k;
    job->reproducible = GetParam();
    AbortWord abort;
    auto trainer = Trainer::create(*job, {}, abort, [](Step, uint32_t, bool) {});
    ASSERT_TRUE(trainer) << trainer.error().to_string();
    const ParameterLayout layout(job->model, job->slices());
    ASSERT_TRUE((*trainer)->open_view(
        {Epoch{1, 1}, {}, 0, {0}, {}, std::vector<uint32_t>(layout.shard_count())}));
    for (uint32_t shard = 0; shard < layout.shard_count(); ++shard)
      ASSERT_TRUE((*trainer)->init_shard(shard));
    ASSERT_TRUE((*trainer)->finish_loading());
    const auto comms = make_in_process_group(1, 20'000);
    ASSERT_TRUE((*trainer)->materialize(*comms[0]));
    ASSERT_EQ(golden.loss.size(), 20u);
    for (uint64_t step = 0; step < golden.loss.size(); ++step) {
      const auto done = (*trainer)->run_step(*comms[0], Step(step));
      ASSERT_TRUE(done) << done.error().to_string();
      EXPECT_NEAR(done->loss, golden.loss[step], 1e-4) << "step " << step;
      EXPECT_NEAR(done->gradient_norm, golden.gradient_norm[step],
                  1e-3 * golden.gradient_norm[step])
          << "step " << step;
      if (done->held_out_loss) {
        EXPECT_NEAR(*done->held_out_loss, golden.held_out, 1e-4);
        EXPECT_EQ(step, 19u);
      }
    }
  }

  std::filesystem::path folder_;
  Golden golden_;
};

TEST_P(GoldenTest, TopTwoIsReproducedAtEveryStep) { expect_reproduced(2, golden_.top2); }
TEST_P(GoldenTest, TopOneIsReproducedAtEveryStep) { expect_reproduced(1, golden_.top1); }

INSTANTIATE_TEST_SUITE_P(Modes, GoldenTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "Reproducible" : "Default";
});

}  // namespace
}  // namespace holdfast::train
