// The plans that accelerators make, here on the CPU: alone, and in rooms that are used again for
// other lanes, placements and capacities.
#include <gtest/gtest.h>

#include "tests/train/model/random_group.h"
#include "train/kernels/backend.h"
#include "train/model/alone_dispatch.h"
#include "train/model/room_dispatch.h"

namespace holdfast::train {
namespace {

using Cpu = CpuBackend<float>;

struct Chosen {
  Chosen(const RandomGroup& group, size_t lane)
      : shape(group.shape(lane)),
        choices(group.choices[lane]),
        rank(choices.size()),
        counts(group.experts) {
    kernels::count_choices(kernels::Cpu{}, shape, choices.data(), counts.data(), rank.data());
  }
  ChoicesView view() const { return {choices.data(), rank.data(), counts.data()}; }
  kernels::RouterShape shape;
  std::vector<uint32_t> choices, rank, counts;
};

std::vector<uint32_t> values(const Buffer<uint32_t>& room) {
  return {room.data(), room.data() + room.size()};
}

TEST(AloneDispatch, PlacesRowsAsAPlanOfTheHostDoesAndNothingBehindThem) {
  kernels::Cpu cpu;
  AloneDispatch<Cpu> alone;
  RowRoutes<Cpu> routes;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const RandomGroup group = random_group(seed, seed % 3 != 0);
    const Chosen chosen(group, 0);
    alone.plan(cpu, chosen.shape, chosen.view(), group.most_E, routes);
    LayerPlacement one{{{}}};
    for (uint32_t e = 0; e < group.experts; ++e) one.slots[0].push_back(ExpertIndex(e));
    const DispatchPlan plan =
        plan_dispatch(chosen.choices, group.top_k, chosen.counts, one, {0, false, group.most_E});
    EXPECT_EQ(values(routes.row_of_choice_NK), plan.row_of_choice);
    EXPECT_EQ(routes.products, plan.products);
    std::vector<uint32_t> tokens = plan.token_of_row;
    ASSERT_GE(routes.sent, tokens.size());
    ASSERT_LE(routes.sent, chosen.choices.size());
    tokens.resize(routes.sent, kernels::kNoRow);
    EXPECT_EQ(values(routes.token_of_row_R), tokens);
  }
}

// Only its place in the group is asked of it.
class Place final : public Communicator {
 public:
  Place(uint32_t rank, uint32_t size) : rank_(rank), size_(size) {}
  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }
  Status all_to_all(std::span<const std::byte>, std::span<const size_t>, std::span<std::byte>,
                    std::span<const size_t>) override {
    return fail(ErrorCode::kCommPeerLost, "nothing is exchanged over the host");
  }
  Status all_gather(std::span<const std::byte>, std::span<std::byte>,
                    std::span<const size_t>) override {
    return fail(ErrorCode::kCommPeerLost, "nothing is exchanged over the host");
  }
  void abort() override {}

 private:
  const uint32_t rank_, size_;
};

TEST(RoomDispatch, MakesRoomsAnewForAnotherLanePlacementOrCapacity) {
  kernels::Cpu cpu;
  RoomDispatch<Cpu> used;
  RowRoutes<Cpu> routes;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomGroup group = random_group(seed, true);
    const auto lanes = static_cast<uint32_t>(group.choices.size());
    for (uint32_t turn = 0; turn < 2 * lanes; ++turn) {
      const uint32_t lane = turn % lanes;
      if (turn == lanes) group.most_E[0] += 3;
      const Chosen chosen(group, lane);
      Place comm(lane, lanes);
      HostPayload payload(comm);
      const DispatchRoute route{comm, payload, group.placement, false, group.most_E, true};
      const size_t row_bytes = 4 * (1 + seed % 3);
      used.plan(cpu, chosen.shape, chosen.view(), row_bytes, route, routes);
      RoomDispatch<Cpu> fresh;
      RowRoutes<Cpu> expected;
      fresh.plan(cpu, chosen.shape, chosen.view(), row_bytes, route, expected);
      ASSERT_EQ(values(routes.row_of_choice_NK), values(expected.row_of_choice_NK));
      ASSERT_EQ(values(routes.token_of_row_R), values(expected.token_of_row_R));
      ASSERT_EQ(routes.sent_rows, expected.sent_rows);
      ASSERT_EQ(routes.received_rows, expected.received_rows);
    }
  }
}

}  // namespace
}  // namespace holdfast::train
