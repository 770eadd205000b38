#include "base/error.h"

#include <gtest/gtest.h>

#include <set>

#include "base/result.h"

namespace holdfast {
namespace {

TEST(ErrorTable, EveryRowHasNameHintAndExitCode) {
  std::set<std::string_view> names;
  for (const ErrorRow& row : error_table()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name << " stands twice";
    EXPECT_FALSE(row.hint.empty()) << row.name;
    EXPECT_NE(row.hint.back(), '.') << row.name;
    EXPECT_GE(row.exit_code, 1);
    EXPECT_LE(row.exit_code, 8);
  }
}

TEST(ErrorTable, TextNamesCodeWhatAndWhatToDo) {
  const Error error{ErrorCode::kArenaTooSmall, "arena /x needs 10 bytes, has 5"};
  EXPECT_EQ(error.to_string(),
            "HF-301 arena_too_small: arena /x needs 10 bytes, has 5; make arena.size in node.toml "
            "fit, or use a smaller model or fewer replicas");
}

Status outer(bool fails) {
  auto inner = [&]() -> Result<int> {
    if (fails) return fail(ErrorCode::kFileIo, "x");
    return 7;
  };
  ASSIGN_OR_RETURN(const int value, inner());
  EXPECT_EQ(value, 7);
  return {};
}

TEST(Result, MacrosPassTheErrorOn) {
  EXPECT_TRUE(outer(false));
  ASSERT_FALSE(outer(true));
  EXPECT_EQ(outer(true).error().code, ErrorCode::kFileIo);
}

}  // namespace
}  // namespace holdfast
