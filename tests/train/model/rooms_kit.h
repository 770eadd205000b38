// A stage group that sends its choices in rooms of fixed size, on the CPU: every table on the way.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <vector>

#include "tests/train/model/random_group.h"
#include "train/kernels/ops.h"
#include "train/model/fixed_rooms.h"

namespace holdfast::train {

using Row = std::array<uint32_t, 2>;    // source lane and choice; what travels
inline constexpr size_t kHeadRows = 3;  // of at most 6 counts
inline constexpr Row kNothing = {77, 77};

// What a lane sends, with all that place_in_rooms and write_heads work on.
struct SendingLane {
  FixedRooms rooms;
  std::vector<uint32_t> tables, rank, counts_E, row_of_choice, token_of_row;
  std::vector<Row> sent;
};

inline SendingLane send_rooms(const RandomGroup& group, uint32_t lane) {
  const kernels::Cpu cpu;
  SendingLane out;
  out.rooms = plan_rooms(group.placement, lane, group.most_E, kHeadRows);
  out.tables = out.rooms.flat();
  const std::vector<uint32_t>& choices = group.choices[lane];
  const kernels::RouterShape shape = group.shape(lane);
  out.rank.resize(choices.size());
  out.counts_E.resize(group.experts);
  kernels::count_choices(cpu, shape, choices.data(), out.counts_E.data(), out.rank.data());
  const size_t rows =
      std::accumulate(out.rooms.sent_rows.begin(), out.rooms.sent_rows.end(), size_t{0});
  out.row_of_choice.resize(choices.size());
  out.token_of_row.resize(rows);
  kernels::fill_no_rows(cpu, out.token_of_row.data(), rows);
  const kernels::SendRooms sending = out.rooms.sending(out.tables.data());
  kernels::place_in_rooms(cpu, shape, sending, choices.data(), out.rank.data(), out.counts_E.data(),
                          out.row_of_choice.data(), out.token_of_row.data());
  out.sent.assign(rows, kNothing);
  for (size_t i = 0; i < choices.size(); ++i)
    if (out.row_of_choice[i] != kernels::kNoRow)
      out.sent.at(out.row_of_choice[i]) = {lane, static_cast<uint32_t>(i)};
  kernels::write_heads(cpu, sending, out.counts_E.data(), sizeof(Row), out.sent.data());
  return out;
}

// What lane `host` makes of what all lanes sent it.
struct Arrival {
  std::vector<Row> received;
  std::vector<uint32_t> rows_HC, begin_HC1, place_of_row, first_row;
};

inline Arrival receive_rooms(const std::vector<SendingLane>& lanes, uint32_t host) {
  const kernels::Cpu cpu;
  const FixedRooms& rooms = lanes[host].rooms;
  Arrival out;
  for (const SendingLane& source : lanes) {
    const auto begin = source.sent.begin() + source.rooms.chunk_C[host];
    EXPECT_EQ(source.rooms.sent_rows[host], rooms.chunk_rows()) << "both sides know the size";
    out.received.insert(out.received.end(), begin, begin + static_cast<long>(rooms.chunk_rows()));
  }
  const kernels::ReceiveRooms receiving = rooms.receiving(lanes[host].tables.data());
  const size_t counts = receiving.hosted * receiving.lanes;
  out.rows_HC.resize(counts);
  out.begin_HC1.resize(counts + 1);
  out.place_of_row.resize(receiving.rows());
  out.first_row.resize(receiving.hosted + 1);
  kernels::read_heads(cpu, receiving, sizeof(Row), out.received.data(), out.rows_HC.data());
  kernels::first_rows(cpu, counts, out.rows_HC.data(), nullptr, out.begin_HC1.data());
  kernels::place_received(cpu, receiving, out.begin_HC1.data(), out.place_of_row.data(),
                          out.first_row.data());
  return out;
}

}  // namespace holdfast::train
