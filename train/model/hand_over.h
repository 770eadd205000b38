// Activations and their gradients on their way between stages: through host memory, on any backend.
#pragma once

#include <algorithm>
#include <span>

#include "train/kernels/backends.h"

namespace holdfast::train {

// Copies what lies in host memory to where the backend computes. `from` is free again at once; `staging` is
// read until the device has done what was enqueued.
template <class B>
void take_from_host(typename B::Device& device, std::span<const typename B::Value> from,
                    typename B::template HostRoom<typename B::Value>& staging,
                    typename B::template Room<typename B::Value>& to) {
  to.resize(from.size());
  if constexpr (B::kHostMemory) {
    std::copy(from.begin(), from.end(), to.data());
  } else {
    staging.resize(from.size());
    std::copy(from.begin(), from.end(), staging.data());
    upload(device, staging.data(), from.size(), to.data());
  }
}

// The other way; there once the device has finished.
template <class B>
void leave_on_host(typename B::Device& device,
                   const typename B::template Room<typename B::Value>& from,
                   typename B::template HostRoom<typename B::Value>& to) {
  to.resize(from.size());
  download(device, from.data(), from.size(), to.data());
}

}  // namespace holdfast::train
