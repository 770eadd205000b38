// Batches are pure functions of (seed, step, micro-batch) and keep the held-out part apart.
#include "train/data/batches.h"

#include <set>

#include "tests/train/data/data_test_help.h"

namespace holdfast::train {
namespace {

using ::testing::HasSubstr;

constexpr uint16_t kTokens = 5000;
constexpr int32_t kTraining = 4500;

// Every token is its own position, so that a batch shows where it was taken.
class BatchesTest : public DataTest {
 protected:
  BatchesTest() {
    std::vector<uint16_t> tokens(kTokens);
    for (uint16_t i = 0; i < kTokens; ++i) tokens[i] = i;
    job_.name = JobId("batches");
    job_.data.path = write("positions.bin", as_bytes(tokens)).string();
    job_.data.held_out_fraction = 0.1;
    job_.model.vocabulary = kTokens;
    job_.model.context = 16;
    job_.evaluate_micro_batches = 8;
  }
  Batches open() const {
    auto batches = Batches::open(job_);
    EXPECT_TRUE(batches) << batches.error().to_string();
    return *batches;
  }
  static MicroBatch take(const Batches& batches, uint64_t step, uint32_t micro_batch) {
    return batches.training(Step(step), MicroBatchIndex(micro_batch)).value();
  }
  conf::JobConfig job_;
};

void expect_runs_of_text(const MicroBatch& batch) {
  ASSERT_EQ(batch.tokens.size(), size_t{batch.sequences} * batch.context);
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    EXPECT_EQ(batch.targets[i], batch.tokens[i] + 1) << "the target is the next token";
    if (i % batch.context != 0) {
      EXPECT_EQ(batch.tokens[i], batch.tokens[i - 1] + 1);
    }
  }
}

TEST_F(BatchesTest, TrainingNeverSeesTheHeldOutPart) {
  const Batches batches = open();
  int32_t most = 0, least = kTokens;
  for (uint64_t step = 0; step < 4000; ++step)
    for (uint32_t j = 0; j < 4; ++j) {
      const MicroBatch batch = take(batches, step, j);
      expect_runs_of_text(batch);
      for (const int32_t target : batch.targets) most = std::max(most, target);
      for (const int32_t token : batch.tokens) least = std::min(least, token);
    }
  EXPECT_EQ(most, kTraining - 1) << "the last training token is used, and nothing behind it";
  EXPECT_EQ(least, 0);
}

TEST_F(BatchesTest, HeldOutBatchesSpanTheirPartAndNothingElse) {
  const Batches batches = open();
  for (uint32_t index = 0; index < job_.evaluate_micro_batches; ++index) {
    const MicroBatch batch = batches.held_out(index).value();
    expect_runs_of_text(batch);
    EXPECT_GE(batch.tokens.front(), kTraining);
    EXPECT_LT(batch.targets.back(), kTokens);
  }
  EXPECT_EQ(batches.held_out(0)->tokens.front(), kTraining);
  EXPECT_EQ(batches.held_out(7)->targets.back(), kTokens - 1);
}

TEST_F(BatchesTest, ABatchDependsOnSeedStepAndMicroBatchAlone) {
  const Batches one = open();
  const Batches two = open();
  EXPECT_EQ(take(two, 7, 3).tokens, take(one, 7, 3).tokens);
  std::set<std::vector<int32_t>> distinct;
  for (uint64_t step = 0; step < 10; ++step)
    for (uint32_t j = 0; j < 10; ++j) distinct.insert(take(one, step, j).tokens);
  EXPECT_EQ(distinct.size(), 100u);
  const std::vector<int32_t> before = take(one, 7, 3).tokens;
  job_.pipelines = 2;
  job_.seed = 9;
  EXPECT_EQ(take(open(), 7, 3).tokens, before);
  job_.data.seed = 2;
  EXPECT_NE(take(open(), 7, 3).tokens, before);
}

TEST_F(BatchesTest, AnotherTextHasAnotherFingerprint) {
  const DataFingerprint here = open().fingerprint();
  EXPECT_EQ(here.tokens, kTokens);
  EXPECT_EQ(open().fingerprint(), here);
  std::string bytes = read(job_.data.path);
  bytes[2 * 4000] ^= 1;
  job_.data.path = write("other.bin", bytes).string();
  EXPECT_EQ(open().fingerprint().tokens, kTokens);
  EXPECT_NE(open().fingerprint().checksum, here.checksum);
}

TEST_F(BatchesTest, TooLittleTextNamesWhatEachPartNeeds) {
  job_.model.context = 600;
  const auto batches = Batches::open(job_);
  ASSERT_FALSE(batches);
  EXPECT_EQ(batches.error().code, ErrorCode::kDataEmpty);
  EXPECT_THAT(batches.error().message, HasSubstr("4500 are for training and 500 held out"));
  EXPECT_THAT(batches.error().message, HasSubstr("model.context + 1 = 601"));
}

TEST_F(BatchesTest, ATokenOutsideTheVocabularyIsNamed) {
  job_.model.vocabulary = kTraining;
  const Batches batches = open();  // a .bin does not tell its vocabulary
  const auto batch = batches.held_out(0);
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, ErrorCode::kDataFormat);
  EXPECT_THAT(batch.error().message, HasSubstr("token 4500 is 4500, the model's vocabulary has 4500"));
  write("a", "text");
  ASSERT_TRUE(prepare({folder_ / "a"}));
  job_.data.path = output().string();
  job_.model.vocabulary = 100;
  job_.model.context = 1;
  job_.data.held_out_fraction = 0.4;
  EXPECT_THAT(Batches::open(job_).error().message, HasSubstr("has tokens up to 120"));
}

}  // namespace
}  // namespace holdfast::train
