// One group of Gloo pairs: this rank's end of the connection to every other rank. Only train/comm's
// Gloo files include this.
#pragma once

#include <gloo/context.h>
#include <gloo/transport/tcp/device.h>

#include <cstdint>
#include <memory>

namespace holdfast::train {

class GlooGroup final : public gloo::Context {
 public:
  // Pairs wait 5 times `pair_timeout` for their connection; the factory closes them earlier. Throws
  // what Gloo throws.
  GlooGroup(std::shared_ptr<gloo::transport::Device> device, int rank, int size,
            std::chrono::milliseconds pair_timeout)
      : gloo::Context(rank, size) {
    device_ = std::move(device);
    transportContext_ = device_->createContext(rank, size);
    transportContext_->setTimeout(pair_timeout);
    for (int peer = 0; peer < size; ++peer)
      if (peer != rank) transportContext_->createPair(peer);
  }

  // From any thread, also while others wait: everything under way and later fails.
  void close() {
    for (int peer = 0; peer < size; ++peer)
      if (peer != rank) getPair(peer)->close();
  }
};

}  // namespace holdfast::train
