// The host plans the way of rows: what the CPU does, and what dropless mode needs between lanes,
// where nobody knows beforehand how many rows come.
#pragma once

#include "train/model/row_routes.h"

namespace holdfast::train {

template <class B>
class HostDispatch {
 public:
  // All lanes call it together; it waits for the device. Errors: the communicator's, the device's.
  Status plan(typename B::Device& device, kernels::RouterShape shape, ChoicesView chosen,
              const DispatchRoute& route, RowRoutes<B>& routes);

  // The way of an I round whose micro-batches took theirs in several F rounds, made of what each F
  // round's plan told here. from[lane]: nullptr: that lane has no micro-batch. own: the routes of this
  // lane's. Talks to nobody.
  void assemble(typename B::Device& device, const DispatchRoute& route, const RowRoutes<B>* own,
                std::span<const HostDispatch* const> from, RowRoutes<B>& routes);

 private:
  void keep(typename B::Device& device, const DispatchPlan& plan, size_t hosted,
            RowRoutes<B>& routes);
  typename B::template HostRoom<uint32_t> staging_;
  std::vector<uint32_t> counts_CE_;  // choices of every lane's micro-batch
};

}  // namespace holdfast::train
