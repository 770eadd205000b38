// What a fabric of several has beyond the conformance suite, on twins.
#include "storage/fabric/striped_fabric.h"
#include "tests/storage/fabric/fabric_test_kit.h"

namespace holdfast::storage {
namespace {

constexpr size_t kRegion = 4 << 20;
constexpr uint32_t kTimeoutMs = 2'000;

class StripedTest : public testing::Test {
 protected:
  std::unique_ptr<Fabric> open(const std::string& name, std::span<std::byte> region, int stripes) {
    std::vector<std::unique_ptr<Fabric>> made;
    for (int i = 0; i < stripes; ++i) {
      auto fabric = network_.open(name + std::to_string(i), region, kTimeoutMs);
      EXPECT_TRUE(fabric) << fabric.error().to_string();
      made.push_back(std::move(*fabric));
    }
    return make_striped(std::move(made));
  }

  FabricNetwork network_;
  std::vector<std::byte> a_ = random_bytes(kRegion, 1), b_ = random_bytes(kRegion, 2);
};

// The silent stripe keeps the first read; whatever comes after must go elsewhere.
TEST_F(StripedTest, reads_go_where_the_fewest_bytes_are_under_way) {
  const auto from = open("a", a_, 2), to = open("b", b_, 2);
  auto channel = from->connect(to->address());
  ASSERT_TRUE(channel) << channel.error().to_string();
  network_.silence("b0");
  Outcomes stuck;
  (*channel)->read(0, 0, 4096, stuck.next());  // with nothing under way the first one has it
  for (int i = 0; i < 20; ++i) {
    const Status read = read_now(**channel, 8192, 8192, 1024);
    EXPECT_TRUE(read) << (read ? "" : read.error().to_string());
  }
  EXPECT_EQ(stuck.done(), 0U);
  network_.resume("b0");
}

// Replication beside training takes one connection, though others have less to do.
TEST_F(StripedTest, writes_go_over_the_first) {
  const auto from = open("a", a_, 3), to = open("b", b_, 3);
  auto channel = from->connect(to->address());
  ASSERT_TRUE(channel) << channel.error().to_string();
  network_.silence("b0");
  Outcomes stuck;
  (*channel)->read(0, 0, 4096, stuck.next());  // the first has more under way than the others now
  for (int i = 0; i < 5; ++i) (*channel)->write(i * 1024, i * 1024, 1024, stuck.next());
  const Status read = read_now(**channel, 8192, 8192, 1024);
  EXPECT_TRUE(read) << (read ? "" : read.error().to_string());
  EXPECT_EQ(stuck.done(), 0U);
  network_.resume("b0");
  ASSERT_TRUE(stuck.wait());  // what a silence ends with is the twin's own
}

TEST_F(StripedTest, a_channel_is_lost_with_one_of_its_stripes) {
  const auto from = open("a", a_, 3), to = open("b", b_, 3);
  auto channel = from->connect(to->address());
  ASSERT_TRUE(channel);
  EXPECT_FALSE((*channel)->lost());
  network_.cut("b1");
  EXPECT_TRUE((*channel)->lost());
  (*channel)->close();
  const Status after = write_now(**channel, 0, 0, 64);
  ASSERT_FALSE(after);
  EXPECT_EQ(after.error().code, ErrorCode::kFabricLost);
  auto again = from->connect(to->address());
  EXPECT_FALSE(again) << "a stripe is gone";
}

TEST_F(StripedTest, nothing_is_under_way_after_close) {
  const auto from = open("a", a_, 4), to = open("b", b_, 4);
  auto channel = from->connect(to->address());
  ASSERT_TRUE(channel);
  for (int i = 0; i < 4; ++i) network_.silence("b" + std::to_string(i));
  Outcomes outcomes;
  for (int i = 0; i < 40; ++i) (*channel)->read(0, 0, 1 << 16, outcomes.next());
  (*channel)->close();
  EXPECT_EQ(outcomes.done(), 40U);
}

TEST_F(StripedTest, sides_of_different_width_meet_on_what_both_have) {
  const auto wide = open("a", a_, 4), narrow = open("b", b_, 1);
  for (const auto& [from, to] : {std::pair(wide.get(), narrow.get()), {narrow.get(), wide.get()}}) {
    auto channel = from->connect(to->address());
    ASSERT_TRUE(channel) << channel.error().to_string();
    const Status written = write_now(**channel, 0, kRegion / 2, kRegion / 2);
    EXPECT_TRUE(written);
  }
  EXPECT_TRUE(std::equal(a_.begin(), a_.begin() + kRegion / 2, b_.begin() + kRegion / 2));
}

TEST(StripeCount, by_configuration_provider_and_processors) {
  EXPECT_EQ(stripe_count(0, "tcp", 2), 1U);
  EXPECT_EQ(stripe_count(0, "tcp", 16), 2U);
  EXPECT_EQ(stripe_count(0, "tcp", 256), 4U);
  EXPECT_EQ(stripe_count(0, "tcp", 0), 1U) << "a machine that does not say";
  EXPECT_EQ(stripe_count(0, "verbs", 256), 1U) << "copies by itself";
  EXPECT_EQ(stripe_count(6, "verbs", 2), 6U);
  EXPECT_EQ(stripe_count(99, "tcp", 2), kMostStripes);
}

}  // namespace
}  // namespace holdfast::storage
