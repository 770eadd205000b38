// One suite for both fabrics.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <future>

#include "storage/fabric/range.h"
#include "storage/fabric/striped_fabric.h"
#include "tests/storage/fabric/fabric_test_kit.h"

namespace holdfast::storage {
namespace {

constexpr size_t kRegion = 16 << 20;
constexpr size_t kLargest = 8 << 20;

struct Member {
  std::vector<std::byte> region;  // outlives the fabric
  std::unique_ptr<Fabric> fabric;
};

enum class Kind { kTwin, kLibfabric, kStriped };

class FabricTest : public testing::TestWithParam<Kind> {
 protected:
  Member open(const std::string& name, uint64_t seed, uint32_t timeout_ms = 10'000,
              size_t length = kRegion) {
    Member member{random_bytes(length, seed), nullptr};
    Result<std::unique_ptr<Fabric>> fabric = fail(ErrorCode::kInternal, "not opened");
    switch (GetParam()) {
      case Kind::kTwin:
        fabric = network_.open(name, member.region, timeout_ms);
        break;
      case Kind::kLibfabric:
        fabric = open_libfabric({"tcp", "127.0.0.1", 0, timeout_ms}, member.region);
        break;
      case Kind::kStriped:
        fabric = open_striped_libfabric({"tcp", "127.0.0.1", 0, timeout_ms}, 3, member.region);
        break;
    }
    EXPECT_TRUE(fabric.has_value()) << (fabric ? "" : fabric.error().to_string());
    if (fabric) member.fabric = std::move(*fabric);
    return member;
  }
  std::unique_ptr<Channel> connect(Member& from, const Member& to) {
    auto channel = from.fabric->connect(to.fabric->address());
    EXPECT_TRUE(channel.has_value()) << channel.error().to_string();
    return channel ? std::move(*channel) : nullptr;
  }

  FabricNetwork network_;
};

TEST_P(FabricTest, copies_any_range_both_ways) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  Member a = open("a", seed), b = open("b", seed + 1);
  auto channel = connect(a, b);
  ASSERT_TRUE(channel);
  std::vector<size_t> lengths{1, 7, 4095, 4096, 65'537, (4 << 20) - 1, (4 << 20) + 1, kLargest};
  for (int i = 0; i < 40; ++i) lengths.push_back(1 + random() % (1 << (random() % 23)));
  for (size_t length : lengths) {
    const uint64_t local = random() % (kRegion - length + 1);
    const uint64_t remote = random() % (kRegion - length + 1);
    auto expected = b.region;
    std::copy_n(a.region.begin() + local, length, expected.begin() + remote);
    const Status written = write_now(*channel, local, remote, length);
    ASSERT_TRUE(written) << written.error().to_string();
    ASSERT_TRUE(b.region == expected) << length << " bytes to " << remote;

    expected = a.region;
    std::copy_n(b.region.begin() + local, length, expected.begin() + remote);
    const Status read = read_now(*channel, remote, local, length);
    ASSERT_TRUE(read) << read.error().to_string();
    ASSERT_TRUE(a.region == expected) << length << " bytes from " << local;
  }
}

TEST_P(FabricTest, many_at_once_over_several_channels_in_both_directions) {
  constexpr size_t kPieces = 64, kPiece = kRegion / 2 / kPieces;
  Member a = open("a", 1), b = open("b", 2);
  const auto before_a = a.region, before_b = b.region;
  std::vector<std::unique_ptr<Channel>> there, back;
  for (int i = 0; i < 3; ++i) {
    there.push_back(connect(a, b));
    back.push_back(connect(b, a));
    ASSERT_TRUE(there.back() && back.back());
  }
  // a's first half goes to b's second half, and b's first half is written to a's second half.
  Outcomes outcomes;
  for (size_t i = 0; i < kPieces; ++i) {
    there[i % 3]->write(i * kPiece, kRegion / 2 + i * kPiece, kPiece, outcomes.next());
    back[i % 3]->write(i * kPiece, kRegion / 2 + i * kPiece, kPiece, outcomes.next());
  }
  ASSERT_TRUE(outcomes.wait());
  EXPECT_EQ(outcomes.successes(), 2 * kPieces);
  EXPECT_EQ(std::memcmp(b.region.data() + kRegion / 2, before_a.data(), kRegion / 2), 0);
  EXPECT_EQ(std::memcmp(a.region.data() + kRegion / 2, before_b.data(), kRegion / 2), 0);
}

TEST_P(FabricTest, ranges_outside_either_region_are_refused_and_the_channel_lives) {
  Member a = open("a", 1, 10'000, 4096), b = open("b", 2, 10'000, 8192);
  auto channel = connect(a, b);
  ASSERT_TRUE(channel);
  struct Range {
    uint64_t local, remote, length;
  };
  for (const Range& r : {Range{1, 0, 4096},
                         {0, 8000, 200},
                         {0, 8193, 0},
                         {0, 0, UINT64_MAX},
                         {UINT64_MAX, 0, 2},
                         {0, UINT64_MAX, 2}}) {
    for (bool reads : {false, true}) {
      const Status status = reads ? read_now(*channel, r.local, r.remote, r.length)
                                  : write_now(*channel, r.local, r.remote, r.length);
      ASSERT_FALSE(status);
      EXPECT_EQ(status.error().code, ErrorCode::kFabricProtocol);
    }
  }
  EXPECT_FALSE(channel->lost());
  EXPECT_TRUE(write_now(*channel, 0, 4096, 4096));
  EXPECT_TRUE(write_now(*channel, 4096, 8192, 0));
}

TEST_P(FabricTest, a_peer_that_goes_in_the_middle_is_lost_within_a_second) {
  Member a = open("a", 1), b = open("b", 2);
  auto channel = connect(a, b);
  ASSERT_TRUE(channel);
  Outcomes outcomes;
  for (int i = 0; i < 200; ++i) channel->write(0, 0, kLargest, outcomes.next());
  const auto start = Clock::now();
  b.fabric.reset();
  ASSERT_TRUE(outcomes.wait(std::chrono::seconds(1)));
  std::printf("lost after %.2f ms, %zu of 200 were done\n", ms_since(start), outcomes.successes());
  // On a busy machine all of them may have been through before the peer went.
  EXPECT_EQ(outcomes.count(ErrorCode::kFabricLost) + outcomes.successes(), 200U);
  EXPECT_TRUE(channel->lost());
  const Status later = write_now(*channel, 0, 0, 1);
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code, ErrorCode::kFabricLost);
}

TEST_P(FabricTest, close_ends_every_operation_before_it_returns) {
  Member a = open("a", 1), b = open("b", 2);
  auto channel = connect(a, b);
  auto other = connect(a, b);
  ASSERT_TRUE(channel && other);
  Outcomes outcomes;
  for (int i = 0; i < 100; ++i) channel->write(0, 0, kLargest, outcomes.next());
  const auto start = Clock::now();
  channel->close();
  EXPECT_EQ(outcomes.done(), 100U);
  std::printf("closed in %.2f ms, %zu of 100 were done\n", ms_since(start), outcomes.successes());
  EXPECT_EQ(outcomes.count(ErrorCode::kFabricLost) + outcomes.successes(), 100U);
  EXPECT_TRUE(channel->lost());
  channel->close();
  EXPECT_TRUE(write_now(*other, 0, 0, kLargest)) << "another channel to the same peer lives on";
}

TEST_P(FabricTest, closing_the_fabric_ends_the_operations_of_its_channels) {
  Member a = open("a", 1), b = open("b", 2);
  auto channel = connect(a, b);
  ASSERT_TRUE(channel);
  Outcomes outcomes;
  for (int i = 0; i < 50; ++i) channel->read(0, 0, kLargest, outcomes.next());
  a.fabric.reset();
  EXPECT_EQ(outcomes.done(), 50U);
  EXPECT_TRUE(channel->lost());
  const Status later = write_now(*channel, 0, 0, 1);
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code, ErrorCode::kFabricLost);
}

TEST_P(FabricTest, too_many_operations_are_refused_not_queued_without_bound) {
  if (GetParam() == Kind::kStriped) GTEST_SKIP() << "each stripe has the bound that `libfabric` shows";
  Member a = open("a", 1), b = open("b", 2);
  auto channel = connect(a, b);
  ASSERT_TRUE(channel);
  // The first one's completion holds the progress thread: nothing else is done meanwhile.
  std::promise<void> first_done, go_on;
  channel->write(0, 0, 1, [&](const Status& status) {
    EXPECT_TRUE(status);
    first_done.set_value();
    go_on.get_future().wait();
  });
  first_done.get_future().wait();
  constexpr size_t kTooMany = 100;
  Outcomes outcomes;
  for (size_t i = 1; i < kMaxOperations + kTooMany; ++i) channel->write(0, 0, 1, outcomes.next());
  go_on.set_value();
  ASSERT_TRUE(outcomes.wait());
  EXPECT_EQ(outcomes.count(ErrorCode::kQueueFull), kTooMany);
  EXPECT_EQ(outcomes.successes(), kMaxOperations - 1) << "and the one that was held";
  EXPECT_TRUE(write_now(*channel, 0, 0, 1)) << "there is room again";
}

TEST_P(FabricTest, a_peer_that_comes_back_is_reached_under_its_new_address_only) {
  Member a = open("a", 1), b = open("b", 2);
  const FabricAddress old = b.fabric->address();
  auto channel = connect(a, b);
  b.fabric.reset();
  Member again = open("b", 3);
  const auto start = Clock::now();
  const auto refused = a.fabric->connect(old);
  std::printf("an old address fails after %.2f ms\n", ms_since(start));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kFabricLost);
  auto anew = connect(a, again);
  ASSERT_TRUE(anew);
  EXPECT_TRUE(write_now(*anew, 5, 9, 100'000));
  EXPECT_EQ(std::memcmp(a.region.data() + 5, again.region.data() + 9, 100'000), 0);
}

TEST_P(FabricTest, a_hundred_connections_one_after_the_other) {
  Member a = open("a", 1), b = open("b", 2);
  const auto start = Clock::now();
  for (int i = 0; i < 100; ++i) {
    auto channel = connect(a, b);
    ASSERT_TRUE(channel);
    ASSERT_TRUE(write_now(*channel, i, i, 1000));
  }
  std::printf("connect, 1000 bytes, close: %.3f ms each\n", ms_since(start) / 100);
}

// Without a word of their end, as of a peer that was cut off and came back.
TEST_P(FabricTest, connections_that_were_left_behind_make_room_for_new_ones) {
  Member a = open("a", 1), b = open("b", 2), other = open("c", 3);
  auto of_another = connect(other, b);
  std::vector<std::unique_ptr<Channel>> channels;
  for (int i = 0; i < 30; ++i) {
    channels.push_back(connect(a, b));
    ASSERT_TRUE(channels.back()) << i;
    ASSERT_TRUE(write_now(*channels.back(), 0, 0, 1000)) << i;
  }
  const auto living = [&] {
    return std::count_if(channels.begin(), channels.end(),
                         [](const auto& channel) { return !channel->lost(); });
  };
  const auto start = Clock::now();
  while (living() > int{kMaxChannelsFromOne} && ms_since(start) < 5000) std::this_thread::yield();
  EXPECT_EQ(living(), int{kMaxChannelsFromOne});
  for (size_t i = channels.size() - kMaxChannelsFromOne; i < channels.size(); ++i)
    EXPECT_TRUE(write_now(*channels[i], 0, 0, 1000)) << "the newest live: " << i;
  EXPECT_TRUE(write_now(*of_another, 0, 0, 1000)) << "of another peer";
}

TEST_P(FabricTest, completions_may_start_operations) {
  Member a = open("a", 1), b = open("b", 2);
  auto channel = connect(a, b);
  ASSERT_TRUE(channel);
  Outcomes outcomes;
  FabricDone second = outcomes.next();
  channel->write(0, 0, 100, [&](const Status&) { channel->read(0, 0, 100, second); });
  EXPECT_TRUE(outcomes.wait());
  EXPECT_EQ(outcomes.successes(), 1U);
}

INSTANTIATE_TEST_SUITE_P(All, FabricTest,
                         testing::Values(Kind::kTwin, Kind::kLibfabric, Kind::kStriped),
                         [](const auto& info) {
                           switch (info.param) {
                             case Kind::kTwin:
                               return "twin";
                             case Kind::kLibfabric:
                               return "libfabric";
                             case Kind::kStriped:
                               return "striped";
                           }
                           return "unknown";
                         });

TEST(FabricTwin, a_cut_node_is_lost_for_everybody) {
  FabricNetwork network;
  std::vector<std::byte> a(kRegion), b(kRegion);
  auto fabric_a = network.open("a", a, 5'000), fabric_b = network.open("b", b, 5'000);
  auto channel = (*fabric_a)->connect((*fabric_b)->address());
  auto back = (*fabric_b)->connect((*fabric_a)->address());
  Outcomes outcomes;
  for (int i = 0; i < 200; ++i) (*channel)->write(0, 0, kLargest, outcomes.next());
  network.cut("b");
  ASSERT_TRUE(outcomes.wait(std::chrono::seconds(5)));
  EXPECT_GT(outcomes.count(ErrorCode::kFabricLost), 0U);
  EXPECT_TRUE((*channel)->lost());
  EXPECT_TRUE((*back)->lost());
  EXPECT_TRUE(network.open("b", b, 5'000));
}

TEST(FabricTwin, a_silent_node_times_out_and_its_writes_may_land_late) {
  FabricNetwork network;
  auto a = random_bytes(4096, 1);
  std::vector<std::byte> b(4096);
  auto fabric_a = network.open("a", a, 100), fabric_b = network.open("b", b, 100);
  auto channel = (*fabric_a)->connect((*fabric_b)->address());
  network.silence("b");
  const auto start = Clock::now();
  const Status status = write_now(**channel, 0, 0, 4096);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kFabricTimeout);
  EXPECT_GE(ms_since(start), 99.0);
  EXPECT_TRUE((*channel)->lost());
  const auto none = (*fabric_a)->connect((*fabric_b)->address());
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kFabricTimeout);
  EXPECT_EQ(b, std::vector<std::byte>(4096));
  network.resume("b");
  EXPECT_EQ(a, b);
}

TEST(FabricLibfabric, a_taken_port_and_an_unknown_provider_are_told_apart) {
  std::vector<std::byte> region(4096);
  auto first = open_libfabric({"tcp", "127.0.0.1", 0, 1000}, region);
  ASSERT_TRUE(first) << first.error().to_string();
  const std::string address = (*first)->address();
  std::vector<size_t> marks;
  for (size_t i = 0; i < address.size(); ++i)
    if (address[i] == ';') marks.push_back(i);
  const int port = std::stoi(address.substr(marks[4] + 1));
  auto second = open_libfabric({"tcp", "127.0.0.1", static_cast<uint16_t>(port), 1000}, region);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse) << second.error().to_string();
  auto unknown = open_libfabric({"warp", "127.0.0.1", 0, 1000}, region);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::kFabricUnavailable);
  EXPECT_NE(unknown.error().message.find("tcp"), std::string::npos) << unknown.error().message;
  EXPECT_TRUE(open_libfabric({"auto", "127.0.0.1", 0, 1000}, region));
}

// A name server that does not answer holds up whoever asks it longer than any limit of ours.
TEST(FabricLibfabric, a_full_fabric_takes_the_newest_peer_instead_of_the_oldest) {
  FabricOptions options{"tcp", "127.0.0.1", 0, 10'000};
  auto own_region = random_bytes(1 << 20, 1);
  options.max_channels_in = 3;
  auto full = open_libfabric(options, own_region);
  ASSERT_TRUE(full) << full.error().to_string();
  std::vector<Member> peers;
  std::vector<std::unique_ptr<Channel>> channels;
  for (uint64_t i = 0; i < 5; ++i) {
    peers.push_back({random_bytes(1 << 20, i), nullptr});
    auto fabric = open_libfabric({"tcp", "127.0.0.1", 0, 10'000}, peers.back().region);
    ASSERT_TRUE(fabric) << fabric.error().to_string();
    peers.back().fabric = std::move(*fabric);
    auto channel = peers.back().fabric->connect((*full)->address());
    ASSERT_TRUE(channel) << i << ": " << channel.error().to_string();
    channels.push_back(std::move(*channel));
    EXPECT_TRUE(write_now(*channels.back(), 0, 0, 1000)) << i;
  }
  const auto start = Clock::now();
  while (!(channels[0]->lost() && channels[1]->lost()) && ms_since(start) < 5000)
    std::this_thread::yield();
  EXPECT_TRUE(channels[0]->lost() && channels[1]->lost());
  for (size_t i = 2; i < 5; ++i) EXPECT_TRUE(write_now(*channels[i], 0, 0, 1000)) << i;
}

TEST(FabricLibfabric, a_name_is_looked_up_once_and_peers_get_the_number) {
  std::vector<std::byte> region(4096);
  auto fabric = open_libfabric({"tcp", "localhost", 0, 5'000}, region);
  ASSERT_TRUE(fabric) << fabric.error().to_string();
  const FabricAddress address = (*fabric)->address();
  EXPECT_EQ(address.find("localhost"), address.npos) << address;
  ASSERT_TRUE((*fabric)->connect(address));
  const size_t host = address.find(";tcp;") + 5;
  const FabricAddress named =
      address.substr(0, host) + "localhost" + address.substr(address.find(';', host));
  const auto refused = (*fabric)->connect(named);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kFabricLost) << refused.error().to_string();
  EXPECT_NE(refused.error().message.find("localhost"), std::string::npos);
}

TEST(FabricLibfabric, foreign_addresses_are_refused_and_nobody_listening_fails_soon) {
  std::vector<std::byte> region(4096);
  auto fabric = open_libfabric({"tcp", "127.0.0.1", 0, 1000}, region);
  ASSERT_TRUE(fabric);
  auto gone = open_libfabric({"tcp", "127.0.0.1", 0, 1000}, region);
  const FabricAddress address = (*gone)->address();
  gone->reset();
  const auto start = Clock::now();
  const auto refused = (*fabric)->connect(address);
  std::printf("nobody listens: known after %.2f ms\n", ms_since(start));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kFabricLost) << refused.error().to_string();
  EXPECT_LT(ms_since(start), 3000.0);
  for (const char* bad : {"", "twin;a;1", "holdfast-fabric;1", "holdfast-fabric;9;x;tcp;h;1;2"}) {
    const auto foreign = (*fabric)->connect(bad);
    ASSERT_FALSE(foreign);
    EXPECT_EQ(foreign.error().code, ErrorCode::kFabricProtocol);
  }
}

}  // namespace
}  // namespace holdfast::storage
