#include "train/model/alone_dispatch.h"

#include <algorithm>
#include <numeric>

#include "train/kernels/backends.h"

namespace holdfast::train {

template <class B>
void AloneDispatch<B>::plan(typename B::Device& device, kernels::RouterShape shape,
                            ChoicesView chosen, std::span<const uint32_t> most_E,
                            RowRoutes<B>& routes) {
  routes.sent = shape.choices();
  if (!most_E.empty())
    routes.sent = std::min(routes.sent, std::accumulate(most_E.begin(), most_E.end(), size_t{0}));
  routes.received = routes.sent;
  routes.hosted = shape.experts;
  routes.row_of_choice_NK.resize(shape.choices());
  routes.token_of_row_R.resize(routes.sent);
  routes.first_row.resize(routes.hosted + 1);
  const uint32_t* most = nullptr;
  if (!most_E.empty()) {
    most_E_.put(device, most_E);
    most = most_E_.data();
    // Rows that no choice takes are behind the last expert's.
    fill_no_rows(device, routes.token_of_row_R.data(), routes.sent);
  }
  first_rows(device, shape.experts, chosen.counts_E, most, routes.first_row.data());
  place_choices(device, shape, chosen.choices_NK, chosen.rank_NK, routes.first_row.data(),
                routes.row_of_choice_NK.data(), routes.token_of_row_R.data());
  routes.products_of_rows();
}

#define INSTANTIATE(B) template class AloneDispatch<B>;
HOLDFAST_FOR_EACH_BACKEND(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
