// XXH3, 64 bits: guards every block, message and record against bit rot and torn writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace holdfast {

uint64_t checksum64(std::span<const std::byte> bytes);
uint64_t checksum64(std::string_view text);

// The same value as checksum64 over the concatenation of all that was added.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void add(std::span<const std::byte> bytes);
  uint64_t value() const;

 private:
  void* state_;
};

}  // namespace holdfast
