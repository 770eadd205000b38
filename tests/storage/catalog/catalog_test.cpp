// What every catalog does, on disk or not.
#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "tests/storage/catalog/catalog_test_help.h"

namespace holdfast::storage {
namespace {

enum class Kind { kMemory, kRocksdb };

class CatalogTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::kMemory) {
      catalog_ = make_memory_catalog();
      return;
    }
    auto opened = open_rocksdb_catalog(folder_.path() / "catalog", identity());
    ASSERT_TRUE(opened) << opened.error().to_string();
    catalog_ = std::move(*opened);
  }

  void put(const std::string& key, const std::string& value) {
    const Status written = catalog_->write({{key, value}}, Durability::kBuffered);
    ASSERT_TRUE(written) << written.error().to_string();
  }
  std::vector<std::string> keys(const std::string& prefix, const std::string& from, size_t limit,
                                bool newest_first = false) {
    auto found = catalog_->scan(prefix, from, limit, newest_first);
    EXPECT_TRUE(found);
    std::vector<std::string> result;
    for (const auto& [key, value] : *found) result.push_back(key);
    return result;
  }

  Folder folder_;
  std::unique_ptr<Catalog> catalog_;
};

using Keys = std::vector<std::string>;

TEST_P(CatalogTest, AKeyHoldsWhatWasWrittenLast) {
  EXPECT_EQ(*catalog_->get("a"), std::nullopt);
  put("a", "1");
  EXPECT_EQ(*catalog_->get("a"), "1");
  put("a", "");
  EXPECT_EQ(*catalog_->get("a"), "") << "empty is not absent";
  ASSERT_TRUE(catalog_->write({{"a", std::nullopt}}, Durability::kSynced));
  EXPECT_EQ(*catalog_->get("a"), std::nullopt);
  ASSERT_TRUE(catalog_->write({{"a", std::nullopt}}, Durability::kSynced)) << "removed twice";
}

TEST_P(CatalogTest, KeysAndValuesMayHoldAnyBytes) {
  const std::string key("k\0\xff/\n", 5);
  const std::string value("\0\1\2\xff", 4);
  put(key, value);
  EXPECT_EQ(*catalog_->get(key), value);
  EXPECT_EQ(keys("k", "", 10), Keys{key});
}

TEST_P(CatalogTest, OfWritesToOneKeyInABatchTheLastCounts) {
  ASSERT_TRUE(catalog_->write({{"a", "1"}, {"b", "2"}, {"a", std::nullopt}, {"b", "3"}},
                              Durability::kSynced));
  EXPECT_EQ(*catalog_->get("a"), std::nullopt);
  EXPECT_EQ(*catalog_->get("b"), "3");
}

TEST_P(CatalogTest, ScanHonoursPrefixStartLimitAndDirection) {
  for (const char* key : {"job/a", "job/b", "job/c", "joc", "event/1", "job", "zz"}) put(key, "v");
  EXPECT_EQ(keys("job/", "", 10), (Keys{"job/a", "job/b", "job/c"}));
  EXPECT_EQ(keys("job/", "job/b", 10), (Keys{"job/b", "job/c"})) << "from is inclusive";
  EXPECT_EQ(keys("job/", "job/bb", 10), (Keys{"job/c"}));
  EXPECT_EQ(keys("job/", "a", 10), (Keys{"job/a", "job/b", "job/c"})) << "from before the prefix";
  EXPECT_EQ(keys("job/", "joz", 10), Keys{}) << "from behind the prefix";
  EXPECT_EQ(keys("job/", "", 2), (Keys{"job/a", "job/b"}));
  EXPECT_EQ(keys("job/", "", 2, true), (Keys{"job/c", "job/b"}));
  EXPECT_EQ(keys("job/", "job/c", 2, true), (Keys{"job/c"}));
  EXPECT_EQ(keys("job/", "", 0), Keys{});
  EXPECT_EQ(keys("", "", 100), (Keys{"event/1", "job", "job/a", "job/b", "job/c", "joc", "zz"}));
  EXPECT_EQ(keys("nothing", "", 10), Keys{});
}

TEST_P(CatalogTest, APrefixOfTheLargestByteHasAnEndToo) {
  put("\xff", "1");
  put("\xff\xff", "2");
  EXPECT_EQ(keys("\xff", "", 10).size(), 2u);
  EXPECT_EQ(keys("\xff\xff", "", 10, true), Keys{"\xff\xff"});
}

TEST_P(CatalogTest, CompareAndSwapWritesOnlyOverWhatWasExpected) {
  EXPECT_EQ(catalog_->compare_and_swap("epoch", "1", "2").error().code,
            ErrorCode::kCatalogConflict);
  EXPECT_EQ(*catalog_->get("epoch"), std::nullopt);
  EXPECT_TRUE(catalog_->compare_and_swap("epoch", std::nullopt, "1"));
  EXPECT_EQ(catalog_->compare_and_swap("epoch", std::nullopt, "9").error().code,
            ErrorCode::kCatalogConflict);
  EXPECT_TRUE(catalog_->compare_and_swap("epoch", "1", "2"));
  EXPECT_EQ(*catalog_->get("epoch"), "2");
}

TEST_P(CatalogTest, OfManyThreadsOneWinsEverySwap) {
  constexpr int kThreads = 4, kRounds = 25;
  ASSERT_TRUE(catalog_->compare_and_swap("n", std::nullopt, "0"));
  std::array<int, kThreads> won{};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < kRounds; ++round) {
        const auto now = catalog_->get("n");
        if (catalog_->compare_and_swap("n", *now, std::to_string(std::stoi(**now) + 1)))
          ++won[static_cast<size_t>(t)];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int sum = 0;
  for (const int count : won) sum += count;
  EXPECT_EQ(**catalog_->get("n"), std::to_string(sum));
  EXPECT_GE(sum, kRounds) << "in every round at least one wins";
}

TEST_P(CatalogTest, RandomWritesGiveTheAnswersOfAMap) {
  const uint64_t seed = 20260131;
  std::mt19937_64 random(seed);
  std::map<std::string, std::string> model;
  const auto random_key = [&] {
    return std::string(1, static_cast<char>('a' + random() % 3)) + std::to_string(random() % 40);
  };
  for (int i = 0; i < 2000; ++i) {
    if (random() % 4 != 0) {
      std::vector<Catalog::Write> writes;
      for (uint64_t n = 1 + random() % 4; n > 0; --n) {
        const std::string key = random_key();
        if (random() % 3 == 0) {
          writes.push_back({key, std::nullopt});
          model.erase(key);
        } else {
          writes.push_back({key, std::to_string(i)});
          model[key] = std::to_string(i);
        }
      }
      ASSERT_TRUE(catalog_->write(writes, Durability::kBuffered));
      continue;
    }
    const std::string prefix = random_key().substr(0, random() % 3);
    const std::string from = random() % 2 == 0 ? "" : random_key();
    const bool newest_first = random() % 2 == 0;
    Keys expected;
    for (const auto& [key, value] : model)
      if (key.starts_with(prefix) && key >= from) expected.push_back(key);
    if (newest_first) std::reverse(expected.begin(), expected.end());
    const size_t limit = random() % 50;
    if (expected.size() > limit) expected.resize(limit);
    ASSERT_EQ(keys(prefix, from, limit, newest_first), expected)
        << "seed " << seed << ", round " << i << ", prefix " << prefix << ", from " << from;
  }
}

INSTANTIATE_TEST_SUITE_P(, CatalogTest, ::testing::Values(Kind::kMemory, Kind::kRocksdb),
                         [](const auto& info) {
                           return info.param == Kind::kMemory ? "Memory" : "Rocksdb";
                         });

}  // namespace
}  // namespace holdfast::storage
