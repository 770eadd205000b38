// Keeps the buffers of one version from being overwritten while they are captured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/ids.h"
#include "base/result.h"

namespace holdfast::train {

class Protection {
 public:
  virtual ~Protection() = default;         // releases
  virtual StateVersion state() const = 0;  // with the epoch it was made in
  // Copies shard state (master, m, v) into out. `copied` gets each piece of out as it lies there, one
  // after the other: small enough to be in the cache still. With an error what was copied is worthless:
  // kTimeout, the update took the buffer back; the device's. Any thread, several shards at a time.
  using PieceFn = std::function<void(std::span<const std::byte>)>;
  virtual Status read_shard(uint32_t shard, std::span<std::byte> out, const PieceFn& copied) = 0;
};

}  // namespace holdfast::train
