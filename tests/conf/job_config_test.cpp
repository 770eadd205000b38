// Job files: the samples load, and whatever is wrong in one is told with file, line, key and remedy.
#include "conf/job_config.h"

#include <gmock/gmock.h>

#include "base/json.h"
#include "conf/toml_table.h"

namespace holdfast::conf {
namespace {

using ::testing::HasSubstr;

TEST(JobConfigTest, EverySampleLoads) {
  const std::filesystem::path folder = std::filesystem::path(HOLDFAST_SOURCE_DIR) / "conf/jobs";
  size_t samples = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto job = load_job(entry.path(), {.data = "text.tokens"});
    ASSERT_TRUE(job) << job.error().to_string();
    EXPECT_EQ(job->name.value, entry.path().stem().string());
    ++samples;
  }
  EXPECT_GE(samples, 2u);
}

struct BadJob {
  const char* text;
  ErrorCode code;
  const char* says;
};

TEST(JobConfigTest, WhatIsWrongIsNamedWithWhereAndWhy) {
  const BadJob table[] = {
      {"steps = ", ErrorCode::kConfigSyntax, "/f/job.toml:1: "},
      {"\nstepz = 5", ErrorCode::kConfigUnknownKey,
       "/f/job.toml:2: unknown key stepz, did you mean steps?"},
      {"[model]\nlayer = 5", ErrorCode::kConfigUnknownKey,
       "/f/job.toml:2: unknown key model.layer, did you mean model.layers?"},
      {"[zzzzzzzzzzzz]\na = 5", ErrorCode::kConfigUnknownKey, "unknown key zzzzzzzzzzzz"},
      {"steps = \"many\"", ErrorCode::kConfigValue, "/f/job.toml:1: steps must be a whole number"},
      {"steps = -1", ErrorCode::kConfigValue, "steps must be a whole number from 0"},
      {"pipelines = 4294967296", ErrorCode::kConfigValue, "from 0 to 4294967295"},
      {"steps = 0", ErrorCode::kConfigValue, "steps = 0 is not in the range 1 to "},
      {"reproducible = 1", ErrorCode::kConfigValue, "reproducible must be true or false"},
      {"name = 5", ErrorCode::kConfigValue, "name must be a string in quotes"},
      {"name = \"a/b\"", ErrorCode::kConfigValue, "name = \"a/b\" must be 1 to 64 letters"},
      {"model = 3", ErrorCode::kConfigValue, "model must be a section: [model]"},
      {"[model]\nheads = 3", ErrorCode::kModelShape,
       "model.heads = 3 does not divide model.width = 128"},
      {"[model]\nkv_heads = 3", ErrorCode::kModelShape,
       "model.kv_heads = 3 does not divide model.heads = 4"},
      {"[model]\nwidth = 12", ErrorCode::kModelShape, "12 / 4 = 3 must be even"},
      {"[model]\ntop_k = 9", ErrorCode::kModelShape,
       "model.top_k = 9 is more than model.experts = 8"},
      {"shards = 65536\n[model]\nexperts = 4096", ErrorCode::kConfigValue,
       "shards = 65536 slices of the 16394 parameter groups that model.layers = 4 and model.experts "
       "= 4096 make are 1074397184 shards; 1048576 at most"},
      {"pipelines = 4096\n[model]\nlayers = 1024", ErrorCode::kConfigValue, "pipelines = 4096 slices"},
      {"slots_per_worker = 1", ErrorCode::kModelShape, "is room for 4 experts"},
      {"routing = \"dropping\"", ErrorCode::kConfigValue, "must be \"dropless\" or \"capacity\""},
      {"capacity_factor = 1.5", ErrorCode::kConfigValue,
       "capacity_factor = 1.5 needs routing = \"capacity\""},
      {"routing = \"dropless\"\ncapacity_factor = 1.25", ErrorCode::kConfigValue,
       "capacity_factor = 1.25 needs routing = \"capacity\""},
      {"routing = \"capacity\"\ncapacity_factor = 0", ErrorCode::kConfigValue,
       "capacity_factor = 0 is not above 0"},
      {"routing = \"capacity\"\ncapacity_factor = nan", ErrorCode::kConfigValue,
       "capacity_factor = nan is not above 0"},
      {"routing = \"capacity\"\ncapacity_factor = 1e7", ErrorCode::kConfigValue, "at most 1000000"},
      {"routing = \"capacity\"\ncapacity_factor = \"2\"", ErrorCode::kConfigValue,
       "/f/job.toml:2: capacity_factor must be a number"},
      {"backend = \"gpu\"", ErrorCode::kConfigValue, "must be \"cpu\" or \"cuda\""},
      {"reproducible = true\nbackend = \"cuda\"", ErrorCode::kConfigValue, "needs backend = \"cpu\""},
      {"backend = \"cuda\"\nmodel.expert_width = 20", ErrorCode::kModelShape,
       "model.expert_width = 20 must be a multiple of 8"},
      {"[data]\nheld_out_fraction = 0", ErrorCode::kConfigValue, "data.held_out_fraction = 0"},
      {"[snapshot]\npolicy = \"widow\"", ErrorCode::kConfigValue, "must be \"dense\" or \"none\""},
      {"[snapshot]\nreplicas = 4", ErrorCode::kConfigValue,
       "snapshot.replicas = 4 needs more than that many workers, pipelines = 4"},
      {"synthetic = 3", ErrorCode::kConfigValue, "synthetic must be a section: [synthetic]"},
      {"[synthetic]\nforward = 3", ErrorCode::kConfigUnknownKey,
       "/f/job.toml:2: unknown key synthetic.forward, did you mean synthetic.forward_ms?"},
      {"stages = 2\n[model]\nlayers = 2\n[optimizer]\nclip_by = \"stage\"\n[synthetic]\npolicy = \"reroute\"",
       ErrorCode::kConfigValue, "it needs optimizer.clip_by = \"global\""},
      {"stages = 2\n[model]\nlayers = 2\n[synthetic]\nforward_ms = 9000\nexperts_ms = 400",
       ErrorCode::kConfigValue, "are 20480 ms: at most 20000"},
      {"[synthetic]\nforward_ms = \"30\"", ErrorCode::kConfigValue,
       "/f/job.toml:2: synthetic.forward_ms must be a number"},
      {"[synthetic]\nforward_ms = 0", ErrorCode::kConfigValue,
       "synthetic.forward_ms = 0 is not in the range 1 to 60000"},
      {"[synthetic]\ninput_gradient_ms = -5", ErrorCode::kConfigValue,
       "synthetic.input_gradient_ms = -5"},
      {"[synthetic]\nweight_gradient_ms = 1e9", ErrorCode::kConfigValue,
       "synthetic.weight_gradient_ms = 1000000000"},
      {"[synthetic]\nexperts_ms = nan", ErrorCode::kConfigValue, "synthetic.experts_ms = nan"},
      {"[synthetic]\nupdate_ms = inf", ErrorCode::kConfigValue, "synthetic.update_ms = inf"},
      {"[synthetic]\npolicy = \"1f1b\"", ErrorCode::kConfigValue,
       "synthetic.policy = \"1f1b\" must be \"split\" or \"reroute\""},
      {"backend = \"cuda\"\n[synthetic]", ErrorCode::kConfigValue,
       "[synthetic] needs backend = \"cpu\", not \"cuda\""},
      {"stages = 0", ErrorCode::kConfigValue, "stages = 0 is not in the range 1 to 4"},
      {"stages = 5", ErrorCode::kConfigValue, "stages = 5 is not in the range 1 to 4"},
      {"stages = 257\n[model]\nlayers = 300", ErrorCode::kConfigValue,
       "stages = 257 is not in the range 1 to 256"},
      {"stages = 2\npipelines = 1025", ErrorCode::kConfigValue,
       "pipelines = 1025 is not in the range 1 to 1024"},
      {"stages = 4\npipelines = 1024\nmicro_batches = 1025", ErrorCode::kConfigValue,
       "pipelines = 1024 x micro_batches = 1025 x stages = 4 are 4198400; 4194304 at most"},
      {"micro_batches_in_flight = -1", ErrorCode::kConfigValue,
       "micro_batches_in_flight must be a whole number from 0"},
      {"stages = 2\n[snapshot]\nreplicas = 8", ErrorCode::kConfigValue,
       "snapshot.replicas = 8 needs more than that many workers, pipelines x stages = 8"},
      {"[snapshot]\nevery = 0", ErrorCode::kConfigValue, "snapshot.every = 0"},
      {"[optimizer]\nlearning_rate = nan", ErrorCode::kConfigValue, "optimizer.learning_rate = nan"},
      {"[optimizer]\nmin_learning_rate = 1.0", ErrorCode::kConfigValue,
       "optimizer.min_learning_rate = 1"},
      {"[optimizer]\nbeta1 = 1.0", ErrorCode::kConfigValue, "optimizer.beta1 = 1"},
      {"[optimizer]\nclip_by = \"stages\"", ErrorCode::kConfigValue,
       "optimizer.clip_by = \"stages\" must be \"global\" or \"stage\", did you mean \"stage\"?"},
      {"[optimizer]\nclip_by = \"each of them\"", ErrorCode::kConfigValue,
       "optimizer.clip_by = \"each of them\" must be \"global\" or \"stage\""},
  };
  for (const BadJob& bad : table) {
    const auto job = parse_job(bad.text, "/f/job.toml", {.data = "/f/text.tokens"});
    ASSERT_FALSE(job) << bad.text;
    EXPECT_EQ(job.error().code, bad.code) << bad.text << ": " << job.error().to_string();
    EXPECT_THAT(job.error().message, HasSubstr(bad.says)) << bad.text;
    EXPECT_THAT(job.error().message, HasSubstr("/f/job.toml")) << bad.text;
  }
}

TEST(JobConfigTest, StagesUpdateByThemselvesWhereThereAreSeveralThatClipByTheirOwnNorm) {
  const auto staggered = [](const std::string& text) {
    const auto job = parse_job(text, "/f/job.toml", {.data = "/f/text.tokens"});
    EXPECT_TRUE(job) << text;
    return job && job->staggered();
  };
  EXPECT_TRUE(staggered("stages = 2\n[optimizer]\nclip_by = \"stage\""));
  EXPECT_FALSE(staggered("stages = 2\n[optimizer]\nclip_by = \"global\""));
  EXPECT_FALSE(staggered("stages = 2"));
  EXPECT_FALSE(staggered("[optimizer]\nclip_by = \"stage\""));
}

TEST(JobConfigTest, AJobWithoutDataIsRefusedUnlessItIsGivenBeside) {
  const auto job = parse_job("steps = 5", "/f/job.toml");
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().code, ErrorCode::kConfigMissing);
  EXPECT_THAT(job.error().message,
              HasSubstr("data.path is missing: give it in FILE or with --data"));
  const auto given = parse_job("steps = 5", "/f/job.toml",
                               {.name = "night", .data = "/d/../x.tokens", .steps = 7});
  ASSERT_TRUE(given) << given.error().to_string();
  EXPECT_EQ(given->name.value, "night");
  EXPECT_EQ(given->data.path, "/x.tokens");
  EXPECT_EQ(given->steps, 7u);
  EXPECT_FALSE(parse_job("steps = 5", "/f/job.toml", {.data = "x", .steps = 0}));
}

TEST(JobConfigTest, NamesAreFitForPathsAndAddresses) {
  for (const char* good : {"a", "tiny-2", "A_b.c", "9"}) EXPECT_TRUE(valid_name(good)) << good;
  for (const char* bad : {"", "tiny/steps", ".", "..", ".x", "a b", "a?b", "\xc3\xa4"})
    EXPECT_FALSE(valid_name(bad)) << bad;
  EXPECT_TRUE(valid_name(std::string(64, 'a')));
  EXPECT_FALSE(valid_name(std::string(65, 'a')));
}

TEST(JobConfigTest, AMissingFileIsNamed) {
  const auto job = load_job("/nowhere/job.toml");
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().code, ErrorCode::kConfigMissing);
  EXPECT_THAT(job.error().message, HasSubstr("/nowhere/job.toml"));
}

TEST(JobConfigTest, DefaultsFollowTheFileAndTheOtherKeys) {
  const auto job = parse_job("pipelines = 3\n[data]\npath = \"../x.tokens\"", "/f/jobs/night.toml");
  ASSERT_TRUE(job) << job.error().to_string();
  EXPECT_EQ(job->name.value, "night");
  EXPECT_EQ(job->data.path, "/f/x.tokens") << "relative to the job file";
  EXPECT_EQ(job->slices(), 3u);
  EXPECT_EQ(job->slots(), 3u) << "8 experts on 3 workers";
}

TEST(JobConfigTest, APipelineMayHaveSeveralStages) {
  const auto parsed = [](const char* text) {
    const auto job = parse_job(text, "/f/job.toml", {.data = "/f/text.tokens"});
    EXPECT_TRUE(job) << job.error().to_string();
    return *job;
  };
  const JobConfig one = parsed("pipelines = 3");
  EXPECT_EQ(one.stages, 1U);
  EXPECT_EQ(one.workers(), 3U);
  EXPECT_EQ(one.in_flight(), 2U);
  const JobConfig job = parsed("pipelines = 3\nstages = 2\nmicro_batches = 4\n");
  EXPECT_EQ(job.stages, 2U);
  EXPECT_EQ(job.workers(), 6U);
  EXPECT_EQ(job.slices(), 3U) << "shards are cut as with one stage";
  EXPECT_EQ(job.slots(), 3U) << "a stage's experts lie on its own workers";
  EXPECT_EQ(job.in_flight(), 4U);
  EXPECT_EQ(parsed("stages = 4\npipelines = 1\nmicro_batches = 3").in_flight(), 3U) << "all of a step";
  const JobConfig six = parsed("stages = 2\nmicro_batches = 4\nmicro_batches_in_flight = 6");
  EXPECT_EQ(six.in_flight(), 6U);
  EXPECT_EQ(parsed("micro_batches_in_flight = 99").in_flight(), 8U);
  EXPECT_EQ(parsed("pipelines = 1\nstages = 2").snapshot.replicas, 1U);
  const auto again = from_json_text<JobConfig>(to_json_text(six), "job");
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_EQ(*again, six);
}

TEST(JobConfigTest, OperationsTakeATimeOnlyWhereTheFileSaysSo) {
  const auto parsed = [](const char* text) {
    const auto job = parse_job(text, "/f/job.toml", {.data = "/f/text.tokens"});
    EXPECT_TRUE(job) << job.error().to_string();
    return *job;
  };
  EXPECT_EQ(parsed("steps = 5").synthetic, std::nullopt);
  EXPECT_EQ(parsed("[synthetic]").synthetic, SyntheticConfig()) << "20 ms each";
  for (const JobConfig& job :
       {parsed("steps = 5"),
        parsed("[synthetic]\nforward_ms = 30\ninput_gradient_ms = 31.5\nweight_gradient_ms = 32\n"
               "experts_ms = 7\nupdate_ms = 9\npolicy = \"reroute\"")}) {
    const auto again = from_json_text<JobConfig>(to_json_text(job), "job");
    ASSERT_TRUE(again) << again.error().to_string();
    EXPECT_EQ(*again, job);
    if (!job.synthetic) continue;
    EXPECT_EQ(job.synthetic, (SyntheticConfig{30, 31.5, 32, 7, 9, "reroute"}));
  }
}

TEST(JobConfigTest, CapacityIsForItsRoutingOnly) {
  const auto parsed = [](const char* text) {
    const auto job = parse_job(text, "/f/job.toml", {.data = "/f/text.tokens"});
    EXPECT_TRUE(job) << job.error().to_string();
    return *job;
  };
  EXPECT_EQ(parsed("steps = 5").capacity(), std::nullopt);
  EXPECT_EQ(parsed("routing = \"dropless\"").capacity(), std::nullopt);
  EXPECT_EQ(parsed("routing = \"capacity\"").capacity(), kCapacityFactor);
  EXPECT_EQ(parsed("routing = \"capacity\"\ncapacity_factor = 2").capacity(), 2.0);
  const JobConfig job = parsed("routing = \"capacity\"\ncapacity_factor = 0.5");
  const auto again = from_json_text<JobConfig>(to_json_text(job), "job");
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_EQ(*again, job);
}

TEST(JobConfigTest, NearestKnowsTyposOnly) {
  const std::set<std::string> known = {"steps", "seed", "pipelines"};
  EXPECT_EQ(nearest("step", known), "steps");
  EXPECT_EQ(nearest("pipeline", known), "pipelines");
  EXPECT_EQ(nearest("sede", known), "seed");
  EXPECT_EQ(nearest("transformer", known), std::nullopt);
}

}  // namespace
}  // namespace holdfast::conf
