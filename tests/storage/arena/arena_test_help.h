// What the arena's tests share: a folder in tmpfs that goes away, and blocks with known bytes.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/checksum.h"
#include "storage/arena/arena.h"

namespace holdfast::storage {

class ArenaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp");
    name += "/holdfast-arena-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::filesystem::path path() const { return folder_ / "arena"; }
  ArenaOptions options(uint64_t bytes = 1 << 20) const {
    return {.path = path(), .size_bytes = bytes, .cluster = "test", .node = NodeId("node-0")};
  }

  std::filesystem::path folder_;
};

inline std::vector<char> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const std::filesystem::path& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline BlockHeader header_for(uint32_t shard, uint64_t version,
                              std::span<const std::byte> payload) {
  return {.job = 77,
          .shard = {GroupIndex(shard), SliceIndex(0)},
          .state = {Version(version), Epoch{1, 4}},
          .length = payload.size(),
          .checksum = checksum64(payload)};
}

// Fills `bytes` of a granted block from `seed` and returns the header to publish.
inline BlockHeader fill(ArenaMapping& arena, BlockIndex block, uint32_t shard, uint64_t version,
                        size_t bytes) {
  auto payload = arena.payload(block);
  EXPECT_TRUE(payload) << payload.error().to_string();
  for (size_t i = 0; i < bytes; ++i)
    (*payload)[i] = static_cast<std::byte>(i * 31 + shard * 7 + version);
  return header_for(shard, version, payload->first(bytes));
}

// Allocates, fills and publishes.
inline BlockInfo put(Arena& arena, uint32_t shard, uint64_t version, size_t bytes) {
  auto block = arena.allocate(bytes, NodeId("node-0"), Epoch{1, 4});
  EXPECT_TRUE(block) << block.error().to_string();
  const BlockHeader header = fill(arena, block->index, shard, version, bytes);
  const Status published = arena.publish(block->index, Epoch{1, 4}, header);
  EXPECT_TRUE(published) << published.error().to_string();
  return *arena.info(block->index);
}

}  // namespace holdfast::storage
