// Keeps the buffers of one version from being overwritten while they are captured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"

namespace holdfast::train {

class Protection {
 public:
  virtual ~Protection() = default;         // releases
  virtual StateVersion state() const = 0;  // with the epoch it was made in
  // Copies shard state (master, m, v) into out. False: revoked, what was copied is worthless.
  virtual bool read_shard(uint32_t shard, std::span<std::byte> out) = 0;
};

}  // namespace holdfast::train
