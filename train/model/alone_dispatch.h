// One lane alone, on an accelerator: sent order is expert order, nothing travels, and the host need
// not know how many rows each expert has.
#pragma once

#include "train/model/row_routes.h"

namespace holdfast::train {

template <class B>
class AloneDispatch {
 public:
  // most_E: capacity, or empty. Only enqueues.
  void plan(typename B::Device& device, kernels::RouterShape shape, ChoicesView chosen,
            std::span<const uint32_t> most_E, RowRoutes<B>& routes);

 private:
  BackendTable<B> most_E_;
};

}  // namespace holdfast::train
