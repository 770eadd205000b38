// Shards in two banks: loading, what is kept when the owned set changes, captures and their price.
#include "train/optimizer/shard_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/checksum.h"

namespace holdfast::train {
namespace {

using Store = ShardStore<CpuBackend<float>>;
using Bytes = std::vector<std::byte>;

constexpr Epoch kOne{1, 1};
StateVersion at(uint64_t version) { return {Version(version), kOne}; }

conf::ModelConfig model() {
  conf::ModelConfig model;
  model.vocabulary = 300;
  model.layers = 1;
  model.width = 256;
  model.heads = 2;
  model.kv_heads = 1;
  model.experts = 2;
  model.expert_width = 40;
  return model;
}

class ShardStores : public ::testing::Test {
 protected:
  Bytes payload(uint32_t shard, int salt = 0) const {
    Bytes bytes(layout_.shard_bytes(ShardId::unflat(shard, layout_.slices())));
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>((i * 7 + shard * 31 + static_cast<size_t>(salt)) & 0x3f);
    return bytes;
  }
  Bytes read(Version version, uint32_t shard) {
    const auto guard = store_.protect(version, 0);
    if (!guard) return {};
    Bytes out(payload(shard).size());
    EXPECT_TRUE(guard->read_shard(shard, out, [](std::span<const std::byte>) {}));
    return out;
  }

  const ParameterLayout layout_{model(), 3};
  kernels::Cpu cpu_;
  Store store_{cpu_, layout_};
};

TEST_F(ShardStores, SeveralThreadsLoadAndNothingCountsBeforeTheEnd) {
  std::vector<uint32_t> owned;
  for (uint32_t shard = 0; shard < layout_.shard_count(); ++shard) owned.push_back(shard);
  store_.open(owned, at(4));
  std::vector<Bytes> payloads;
  for (const uint32_t shard : owned) payloads.push_back(payload(shard));
  std::atomic<uint32_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (uint32_t shard = next++; shard < owned.size(); shard = next++) {
        if (shard % 2 == 0)
          store_.load(shard, payloads[shard]);
        else
          store_.load_now(shard, payloads[shard]);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(store_.complete());
  EXPECT_TRUE(store_.held().empty());
  ASSERT_TRUE(store_.finish_loading());
  EXPECT_TRUE(store_.complete());
  EXPECT_EQ(store_.held(), (std::vector<HeldShards>{{at(4), owned}}));
  for (const uint32_t shard : owned) EXPECT_EQ(read(Version(4), shard), payloads[shard]) << shard;
}

// What an adopting lane has at the base stays as it is, wherever its other shards go.
TEST_F(ShardStores, WhatIsKeptAtTheBaseSurvivesAdoptionsAndLosses) {
  const auto load = [&](std::vector<uint32_t> shards) {
    for (const uint32_t shard : shards) store_.load_now(shard, payload(shard));
    ASSERT_TRUE(store_.finish_loading());
  };
  store_.reserve(4096);
  store_.open({0, 3, 6}, at(4));
  load({0, 3, 6});
  const float* const before = store_.now(3).master.data();
  store_.open({1, 2, 3, 6, 7}, at(4));
  EXPECT_EQ(store_.held(), (std::vector<HeldShards>{{at(4), {3, 6}}}));
  EXPECT_FALSE(store_.complete());
  EXPECT_EQ(store_.now(3).master.data(), before);
  load({1, 2, 7});
  EXPECT_TRUE(store_.complete());
  for (const uint32_t shard : {1U, 2U, 3U, 6U, 7U})
    EXPECT_EQ(read(Version(4), shard), payload(shard)) << shard;

  store_.begin_update();
  store_.commit_update(at(5));
  store_.open({3, 4}, at(4));  // back by one version, to the bank before
  EXPECT_EQ(store_.held(), (std::vector<HeldShards>{{at(4), {3}}}));
  load({4});
  EXPECT_EQ(read(Version(4), 3), payload(3));
  store_.open({3}, at(9));
  EXPECT_TRUE(store_.held().empty());
}

TEST_F(ShardStores, ACaptureGetsEveryByteInPiecesInTheirOrder) {
  store_.open({0}, at(1));
  store_.load_now(0, payload(0));
  ASSERT_TRUE(store_.finish_loading());
  ASSERT_GT(payload(0).size(), size_t{256} << 10) << "more than one piece";
  const auto guard = store_.protect(Version(1), 0);
  Bytes out(payload(0).size());
  Checksum sum;
  size_t seen = 0, pieces = 0;
  ASSERT_TRUE(guard->read_shard(0, out, [&](std::span<const std::byte> piece) {
    EXPECT_EQ(piece.data(), out.data() + seen);
    sum.add(piece);
    seen += piece.size();
    ++pieces;
  }));
  EXPECT_EQ(seen, out.size());
  EXPECT_GE(pieces, 3u);
  EXPECT_EQ(out, payload(0));
  EXPECT_EQ(sum.value(), checksum64(payload(0)));
}

TEST_F(ShardStores, AnUpdateTellsHowLongACaptureHeldItUp) {
  store_.open({0}, at(1));
  store_.load_now(0, payload(0));
  ASSERT_TRUE(store_.finish_loading());
  EXPECT_EQ(store_.begin_update(), 0.0);
  store_.commit_update(at(2));
  auto guard = store_.protect(Version(1), 20);
  EXPECT_GE(store_.begin_update(), 0.020) << "it was patient, then took the bank back";
  store_.commit_update(at(3));
  Bytes out(payload(0).size());
  const Status read = guard->read_shard(0, out, [](std::span<const std::byte>) {});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kTimeout);
  EXPECT_NE(read.error().message.find("took the buffer"), std::string::npos);
}

}  // namespace
}  // namespace holdfast::train
