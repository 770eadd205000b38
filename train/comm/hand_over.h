// Hands activations and their gradients from one member of a view to another, between neighbouring
// stages: bytes that lie where the backend computes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "train/comm/communicator.h"
#include "train/tensor/buffer.h"

namespace holdfast::train {

// Between two members in the order of their sends; both know the size. Errors: the communicator's, the
// device's.
class PayloadHandOver {
 public:
  virtual ~PayloadHandOver() = default;
  // In order with what the device has been given to do: `from` is read after everything enqueued before,
  // and what is enqueued afterwards may overwrite it. Does not wait for the receiver.
  virtual Status send(uint32_t to, const std::byte* from, size_t bytes) = 0;
  // Where the next that member `from` hands over lies, for what is enqueued from now on until the next
  // receive(). Waits until the sender has come to it.
  virtual Result<const std::byte*> receive(uint32_t from, size_t bytes) = 0;
  // Returns when all that was handed over has left.
  virtual Status flush() = 0;
  // Only what was handed over before the last call of either.
  virtual Status flush_older() = 0;
};

// For backends that compute in host memory.
class HostHandOver final : public PayloadHandOver {
 public:
  explicit HostHandOver(HandOvers& view) : view_(view) {}
  Status send(uint32_t to, const std::byte* from, size_t bytes) override {
    return view_.send(to, {from, from + bytes});
  }
  Result<const std::byte*> receive(uint32_t from, size_t bytes) override {
    received_.resize(bytes);
    RETURN_IF_ERROR(view_.receive(from, received_.span()));
    return received_.data();
  }
  Status flush() override { return view_.flush(); }
  Status flush_older() override { return view_.flush_older(); }

 private:
  HandOvers& view_;
  Buffer<std::byte> received_;
};

}  // namespace holdfast::train
