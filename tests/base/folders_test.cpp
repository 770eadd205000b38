#include "base/folders.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

TEST(SyncFolder, SaysWhichFolderAndWhy) {
  EXPECT_TRUE(sync_folder(std::filesystem::temp_directory_path()));
  const Status missing = sync_folder("/nowhere/at/all");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kFileIo);
  EXPECT_EQ(missing.error().message,
            "cannot sync folder /nowhere/at/all: No such file or directory");
}

}  // namespace
}  // namespace holdfast
