#include "daemon/node/node_records.h"

#include <gtest/gtest.h>

#include <memory>

namespace holdfast::daemon {
namespace {

TEST(NodeRecords, SessionsGrowThoughTheClockIsSetBack) {
  const auto catalog = storage::make_memory_catalog();
  EXPECT_EQ(*begin_session(*catalog, 5'000'000), 5'000'000u);
  EXPECT_EQ(*begin_session(*catalog, 1'000), 5'000'001u);
  EXPECT_EQ(*begin_session(*catalog, 1'000), 5'000'002u);
  EXPECT_EQ(*begin_session(*catalog, 6'000'000), 6'000'000u);
  EXPECT_EQ(*begin_session(*catalog, -1), 6'000'001u);
}

TEST(NodeRecords, AnArenaIsAnotherWhenItsIdIs) {
  const auto catalog = storage::make_memory_catalog();
  EXPECT_FALSE(*arena_is_another(*catalog, 0)) << "of a release that did not number arenas";
  EXPECT_TRUE(*arena_is_another(*catalog, 7));
  ASSERT_TRUE(remember_arena(*catalog, 7));
  EXPECT_FALSE(*arena_is_another(*catalog, 7));
  EXPECT_TRUE(*arena_is_another(*catalog, 8));
}

TEST(NodeRecords, ARecordThatCannotBeReadIsNamed) {
  const auto catalog = storage::make_memory_catalog();
  ASSERT_TRUE(catalog->write({{"node/session", "\"x\""}}, storage::Durability::kSynced));
  const auto session = begin_session(*catalog, 1);
  ASSERT_FALSE(session);
  EXPECT_NE(session.error().message.find("node/session"), std::string::npos);
}

}  // namespace
}  // namespace holdfast::daemon
