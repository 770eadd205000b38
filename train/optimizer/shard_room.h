// Memory for the shards of a lane, in both banks: few large allocations, in which shards come and go
// while those that stay are not moved. Most of it is taken when the job begins, so that a lane that
// adopts shards after a failure need not ask the device for memory.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <optional>

#include "base/extents.h"
#include "train/kernels/backend.h"

namespace holdfast::train {

// Two rooms of `elements` floats for each shard, one a bank. Changed by one thread; see ShardStore.
template <class B>
class ShardRoom {
 public:
  static constexpr uint32_t kBanks = 2;

  // Takes memory for so many elements a bank, and keeps it. Once, before the first open.
  // std::bad_alloc.
  void reserve(size_t elements);

  // These shards have room from now on, and no others: shard -> elements a bank, multiples of 64.
  // What stays keeps its place and its contents; what is new has undefined contents. std::bad_alloc:
  // shards that are new may have no room then, those that stay have theirs.
  void open(const std::map<uint32_t, size_t>& wanted);

  // nullptr: the shard has no room.
  float* find(uint32_t bank, uint32_t shard);

 private:
  struct Piece {
    explicit Piece(size_t elements) : bank_elements(elements), free(0, elements) {
      data.resize(kBanks * elements);
    }
    size_t bank_elements;
    typename B::template Room<float> data;  // one bank behind the other
    FreeExtents free;                       // elements, the same in both banks
  };
  struct Place {
    Piece* piece = nullptr;
    size_t offset = 0, elements = 0;
  };
  bool place(uint32_t shard, size_t elements);

  std::list<Piece> pieces_;
  Piece* reserved_ = nullptr;
  std::map<uint32_t, Place> places_;
};

}  // namespace holdfast::train
