// Token files from text: what is in them, and what is said when there is none.
#include "tests/train/data/data_test_help.h"
#include "train/data/token_format.h"

namespace holdfast::train {
namespace {

using ::testing::HasSubstr;

TEST_F(DataTest, FilesOfAFolderStandInTheOrderOfTheirPathsOneNewlineBetween) {
  write("text/b.h", "second\n");
  write("text/a/z.h", "first");
  write("text/c.o", std::string("bin\0ary", 7));
  write("text/d.h", "");
  std::filesystem::create_symlink(folder_ / "text/b.h", folder_ / "text/e.h");
  const auto report = prepare({folder_ / "text"});
  ASSERT_TRUE(report) << report.error().to_string();
  EXPECT_EQ(report->files, 2u);
  EXPECT_EQ(report->skipped, 1u);
  EXPECT_EQ(read(output()).substr(sizeof(TokenFileHeader)), "first\nsecond\n");
  EXPECT_EQ(report->tokens, 13u);
  const std::string once = read(output());
  ASSERT_TRUE(prepare({folder_ / "text"}));
  EXPECT_EQ(read(output()), once) << "the same folder gives the same file";
}

TEST_F(DataTest, MaxBytesCutsTheText) {
  write("a", "0123456789");
  const auto report = prepare({folder_ / "a"}, 4);
  ASSERT_TRUE(report);
  EXPECT_EQ(read(output()).substr(sizeof(TokenFileHeader)), "0123");
}

TEST_F(DataTest, WhatIsMissingOrEmptyIsNamedAndNothingIsWritten) {
  const auto missing = prepare({folder_ / "nowhere"});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kDataMissing);
  EXPECT_THAT(missing.error().message, HasSubstr((folder_ / "nowhere").string()));
  std::filesystem::create_directory(folder_ / "empty");
  const auto empty = prepare({folder_ / "empty"});
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().code, ErrorCode::kDataEmpty);
  EXPECT_THAT(empty.error().message, HasSubstr("no text was found in 0 files"));
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    EXPECT_EQ(entry.path(), folder_ / "empty") << "left behind";
}

TEST_F(DataTest, AFileThatWasThereSurvivesAFailedPrepare) {
  write("out.tokens", "precious");
  write("a", std::string("\0", 1));
  EXPECT_EQ(prepare({folder_ / "a"}).error().code, ErrorCode::kDataEmpty);
  EXPECT_EQ(read(output()), "precious");
}

TEST_F(DataTest, AnOutputThatCannotBeWrittenIsNamed) {
  write("a", "text");
  const auto refused = prepare_tokens({{folder_ / "a"}, folder_ / "no/such/folder/out", 0});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kFileIo);
  EXPECT_THAT(refused.error().message, HasSubstr("no/such/folder/out"));
}

}  // namespace
}  // namespace holdfast::train
