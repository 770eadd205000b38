// docs/errors.md is what people look up: it must list every code as the table has it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "base/error.h"

namespace holdfast {
namespace {

TEST(ErrorPage, ListsEveryCodeWithNameHintAndExitCode) {
  std::ifstream in(HOLDFAST_SOURCE_DIR "/docs/errors.md");
  const std::string page{std::istreambuf_iterator<char>(in), {}};
  ASSERT_FALSE(page.empty());
  for (const ErrorRow& row : error_table()) {
    const std::string line = fmt::format("| HF-{} | {} | {} | {} |\n", static_cast<int>(row.code),
                                         row.name, row.hint, row.exit_code);
    EXPECT_NE(page.find(line), std::string::npos) << "missing or different: " << line;
  }
}

}  // namespace
}  // namespace holdfast
