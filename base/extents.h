// Which bytes of a range are free: of the arena's data area, of memory for shards. Pure, not
// thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace holdfast {

class FreeExtents {
 public:
  FreeExtents(uint64_t begin, uint64_t end) : free_{{begin, end - begin}} {}

  // First fit; nullopt when no free extent has `bytes` in one piece.
  std::optional<uint64_t> take(uint64_t bytes);
  // Takes exactly [offset, offset + bytes); false if some of it is not free.
  bool take_at(uint64_t offset, uint64_t bytes);
  // Joined with free neighbours. The range must have been taken.
  void give_back(uint64_t offset, uint64_t bytes);

  uint64_t free_bytes() const;
  uint64_t largest() const;

 private:
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes; never touching each other
};

}  // namespace holdfast
