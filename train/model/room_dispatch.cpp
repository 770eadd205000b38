#include "train/model/room_dispatch.h"

#include <numeric>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

template <class B>
void RoomDispatch<B>::make_rooms(typename B::Device& device, const DispatchRoute& route,
                                 size_t head_rows) {
  const auto same_most = [&] {
    return std::equal(route.most_E.begin(), route.most_E.end(), rooms_.most_E.begin(),
                      rooms_.most_E.end());
  };
  const uint32_t lane = route.comm.rank();
  if (key_.lane == lane && key_.head_rows == head_rows && key_.placement == route.placement &&
      same_most())
    return;
  rooms_ = plan_rooms(route.placement, lane, route.most_E, head_rows);
  key_ = {route.placement, lane, head_rows};
  tables_.put(device, rooms_.flat());
}

template <class B>
void RoomDispatch<B>::plan(typename B::Device& device, kernels::RouterShape shape,
                           ChoicesView chosen, size_t row_bytes, const DispatchRoute& route,
                           RowRoutes<B>& routes) {
  CHECK(!route.reproducible && route.most_E.size() == shape.experts &&
            row_bytes % sizeof(uint32_t) == 0,
        "{} capacities, rows of {} bytes", route.most_E.size(), row_bytes);
  make_rooms(device, route, (shape.experts * sizeof(uint32_t) + row_bytes - 1) / row_bytes);
  routes.sent_rows = rooms_.sent_rows;
  routes.received_rows = rooms_.received_rows;
  routes.sent = std::accumulate(routes.sent_rows.begin(), routes.sent_rows.end(), size_t{0});
  routes.received = rooms_.chunk_rows() * route.comm.size();
  routes.hosted = rooms_.expert_H.size();
  routes.row_of_choice_NK.resize(shape.choices());
  routes.token_of_row_R.resize(routes.sent);
  fill_no_rows(device, routes.token_of_row_R.data(), routes.sent);
  place_in_rooms(device, shape, rooms_.sending(tables_.data()), chosen.choices_NK, chosen.rank_NK,
                 chosen.counts_E, routes.row_of_choice_NK.data(), routes.token_of_row_R.data());
}

template <class B>
void RoomDispatch<B>::announce(typename B::Device& device, ChoicesView chosen, size_t row_bytes,
                               void* sent) const {
  write_heads(device, rooms_.sending(tables_.data()), chosen.counts_E, row_bytes, sent);
}

template <class B>
void RoomDispatch<B>::arrive(typename B::Device& device, size_t row_bytes, const void* received,
                             RowRoutes<B>& routes) {
  const kernels::ReceiveRooms rooms = rooms_.receiving(tables_.data());
  const size_t counts = rooms.hosted * rooms.lanes;
  rows_HC_.resize(counts);
  begin_HC1_.resize(counts + 1);
  routes.place_of_row_R.resize(routes.received);
  routes.first_row.resize(routes.hosted + 1);
  read_heads(device, rooms, row_bytes, received, rows_HC_.data());
  const uint32_t* const all = nullptr;
  first_rows(device, counts, rows_HC_.data(), all, begin_HC1_.data());
  place_received(device, rooms, begin_HC1_.data(), routes.place_of_row_R.data(),
                 routes.first_row.data());
  routes.products_of_rows();
}

#define INSTANTIATE(B) template class RoomDispatch<B>;
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
