// The RocksDB catalog across processes, restarts, damage and full disks.
#include <rocksdb/db.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "tests/storage/catalog/catalog_test_help.h"

namespace holdfast::storage {
namespace {

namespace fs = std::filesystem;

std::string numbered(int i) { return "n/" + std::to_string(1'000'000 + i); }

// Writes synced records and tells each on stdout once it was acknowledged, until it is killed.
int write_until_killed(const char* directory) {
  auto catalog = open_rocksdb_catalog(directory, identity());
  if (!catalog) return 1;
  for (int i = 0; i < 1'000'000; ++i) {
    if (!(*catalog)->write({{numbered(i), "v"}}, Durability::kSynced)) return 2;
    if (::write(STDOUT_FILENO, &i, sizeof(i)) != sizeof(i)) return 3;
  }
  return 4;
}

class CatalogFilesTest : public ::testing::Test {
 protected:
  fs::path directory() const { return folder_.path() / "catalog"; }
  void make_with_records(int count) const {
    auto catalog = open_rocksdb_catalog(directory(), identity());
    ASSERT_TRUE(catalog) << catalog.error().to_string();
    for (int i = 0; i < count; ++i)
      ASSERT_TRUE((*catalog)->write({{numbered(i), std::string(100, 'v')}}, Durability::kBuffered));
  }
  // Into a table file, out of the log.
  void flush() const {
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::Options(), directory().string(), &db).ok());
    ASSERT_TRUE(db->Flush(rocksdb::FlushOptions()).ok());
    ASSERT_TRUE(db->Close().ok());
    delete db;
  }
  ErrorCode open_error() const {
    const auto catalog = open_rocksdb_catalog(directory(), identity());
    EXPECT_FALSE(catalog);
    if (catalog) return ErrorCode::kInternal;
    EXPECT_NE(catalog.error().message.find(directory().string()), std::string::npos)
        << catalog.error().message;
    return catalog.error().code;
  }
  fs::path file_with(const std::string& part) const {
    for (const auto& entry : fs::directory_iterator(directory()))
      if (entry.path().filename().string().find(part) != std::string::npos &&
          fs::file_size(entry) > 0)
        return entry.path();
    return {};
  }

  Folder folder_;
};

void flip_byte(const fs::path& path, size_t at) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(file.get() ^ 0x20);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
}

TEST_F(CatalogFilesTest, RecordsAreThereAfterARestart) {
  make_with_records(10);
  auto catalog = open_rocksdb_catalog(directory(), identity());
  ASSERT_TRUE(catalog) << catalog.error().to_string();
  EXPECT_EQ((*catalog)->scan("n/", "", 100)->size(), 10u);
  EXPECT_EQ((*catalog)->scan("", "", 100)->size(), 10u) << "our own records stay hidden";
}

TEST_F(CatalogFilesTest, NoAcknowledgedSyncedWriteIsLostWhenTheWriterIsKilled) {
  int acknowledged = 0;
  for (int kill_after : {1, 7, 40, 120}) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    const std::string where = directory();
    std::string program = "writer", flag = "--write-until-killed", argument = where;
    char* const arguments[] = {program.data(), flag.data(), argument.data(), nullptr};
    pid_t pid = 0;
    ASSERT_EQ(::posix_spawn(&pid, "/proc/self/exe", &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    int number = -1, last = -1;
    while (last + 1 < kill_after && ::read(ends[0], &number, sizeof(number)) == sizeof(number))
      last = number;
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    while (::read(ends[0], &number, sizeof(number)) == sizeof(number)) last = number;
    ::close(ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself: " << WEXITSTATUS(status);
    acknowledged = std::max(acknowledged, last);

    auto catalog = open_rocksdb_catalog(directory(), identity());
    ASSERT_TRUE(catalog) << catalog.error().to_string();
    for (int i = 0; i <= acknowledged; ++i)
      ASSERT_TRUE((*catalog)->get(numbered(i))->has_value()) << i;
  }
  EXPECT_GE(acknowledged, 119);
}

TEST_F(CatalogFilesTest, ACatalogOfAnotherNodeOrClusterIsForeign) {
  make_with_records(1);
  for (const CatalogIdentity& other :
       {CatalogIdentity{"test", NodeId("node-1")}, CatalogIdentity{"stranger", NodeId("node-0")}}) {
    const auto catalog = open_rocksdb_catalog(directory(), other);
    ASSERT_FALSE(catalog);
    EXPECT_EQ(catalog.error().code, ErrorCode::kCatalogForeign);
    EXPECT_NE(catalog.error().message.find("'node-0' of cluster 'test'"), std::string::npos)
        << catalog.error().message;
  }
}

TEST_F(CatalogFilesTest, AnOlderAndANewerFormatAreRefused) {
  make_with_records(1);
  for (const char* other : {"1", "3"}) {
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::Options(), directory().string(), &db).ok());
    ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), "mformat", other).ok());
    delete db;
    EXPECT_EQ(open_error(), ErrorCode::kCatalogVersion) << other;
  }
}

TEST_F(CatalogFilesTest, ARocksdbOfSomebodyElseIsNotTakenForACatalog) {
  {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, directory().string(), &db).ok());
    delete db;
  }
  EXPECT_EQ(open_error(), ErrorCode::kCatalogCorrupt);
}

TEST_F(CatalogFilesTest, TwoDaemonsCannotOpenOneCatalog) {
  const auto first = open_rocksdb_catalog(directory(), identity());
  ASSERT_TRUE(first);
  EXPECT_EQ(open_error(), ErrorCode::kAddressInUse);
}

TEST_F(CatalogFilesTest, AMissingFileIsDamageAndNotANewBeginning) {
  for (const char* part : {"CURRENT", "MANIFEST-", ".log", ".sst"}) {
    fs::remove_all(directory());
    make_with_records(50);
    if (part == std::string(".sst")) flush();
    const fs::path file = file_with(part);
    ASSERT_FALSE(file.empty()) << part;
    fs::remove(file);
    EXPECT_EQ(open_error(), ErrorCode::kCatalogCorrupt) << part;
  }
}

TEST_F(CatalogFilesTest, AFlippedByteIsFoundAtOpen) {
  for (const char* part : {"MANIFEST-", ".log", ".sst"}) {
    fs::remove_all(directory());
    make_with_records(50);
    if (part == std::string(".sst")) flush();
    const fs::path file = file_with(part);
    ASSERT_FALSE(file.empty()) << part;
    flip_byte(file, std::min<size_t>(60, fs::file_size(file) / 2));
    EXPECT_EQ(open_error(), ErrorCode::kCatalogCorrupt) << part << " " << file;
  }
}

TEST_F(CatalogFilesTest, AWriteThatWasCutOffAtTheEndOfTheLogIsForgotten) {
  make_with_records(50);
  const fs::path log = file_with(".log");
  fs::resize_file(log, fs::file_size(log) - 3);
  auto catalog = open_rocksdb_catalog(directory(), identity());
  ASSERT_TRUE(catalog) << catalog.error().to_string();
  EXPECT_EQ((*catalog)->scan("n/", "", 100)->size(), 49u);
}

TEST_F(CatalogFilesTest, ACreationThatWasCutOffIsBegunAnew) {
  fs::create_directories(directory().string() + ".new");
  std::ofstream(directory().string() + ".new/CURRENT") << "half";
  fs::create_directories(directory());  // made by the service manager, empty
  make_with_records(1);
  EXPECT_FALSE(fs::exists(directory().string() + ".new"));
}

TEST_F(CatalogFilesTest, AFolderThatCannotBeMadeIsNamed) {
  std::ofstream(folder_.path() / "file") << "not a folder";
  const auto catalog = open_rocksdb_catalog(folder_.path() / "file" / "catalog", identity());
  ASSERT_FALSE(catalog);
  EXPECT_EQ(catalog.error().code, ErrorCode::kCatalogIo) << catalog.error().to_string();
  EXPECT_NE(catalog.error().message.find("file"), std::string::npos);
}

TEST_F(CatalogFilesTest, AFullDiskIsNamedAndWritingGoesOnOnceThereIsRoom) {
  const fs::path small = folder_.path() / "small";
  fs::create_directory(small);
  if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=2m") != 0)
    GTEST_SKIP() << "needs the right to mount a small tmpfs";
  {
    auto catalog = open_rocksdb_catalog(small / "catalog", identity());
    ASSERT_TRUE(catalog) << catalog.error().to_string();
    std::ofstream(small / "ballast") << std::string(1 << 20, 'b');
    Status written;
    int count = 0;
    for (; written && count < 100; ++count)
      written =
          (*catalog)->write({{numbered(count), std::string(100'000, 'v')}}, Durability::kSynced);
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, ErrorCode::kDiskFull) << written.error().to_string();
    EXPECT_TRUE((*catalog)->get(numbered(0))->has_value()) << "reading goes on";
    const Status still =
        (*catalog)->write({{"more", std::string(1 << 20, 'v')}}, Durability::kSynced);
    ASSERT_FALSE(still);
    EXPECT_EQ(still.error().code, ErrorCode::kDiskFull) << still.error().to_string();
    fs::remove(small / "ballast");
    const Status again = (*catalog)->write({{"after", "v"}}, Durability::kSynced);
    EXPECT_TRUE(again) << again.error().to_string();
    EXPECT_EQ(*(*catalog)->get("after"), "v");
  }
  {
    auto catalog = open_rocksdb_catalog(small / "catalog", identity());
    EXPECT_TRUE(catalog) << catalog.error().to_string();
    if (catalog) {
      EXPECT_EQ(*(*catalog)->get("after"), "v");
    }
  }
  EXPECT_EQ(::umount2(small.c_str(), MNT_DETACH), 0);
}

}  // namespace
}  // namespace holdfast::storage

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--write-until-killed")
    return holdfast::storage::write_until_killed(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
