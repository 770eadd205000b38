// What F keeps of one micro-batch on its lane, and how the memory of one is used again for the
// next.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "train/model/attention_block.h"
#include "train/model/moe_block.h"
#include "train/model/moe_model.h"

namespace holdfast::train {

template <class T>
struct BlockStash {
  AttentionStash<T> attention;
  MoeStash<T> moe;
};

template <class T>
struct HeadStash {
  Buffer<T> x_ND, inverse_rms_N, normed_ND;
  Buffer<T> probabilities_NV;  // after I: the logits' gradients
  Buffer<T> dnormed_ND;
};

// The tensors of one micro-batch; used again for the next, so that memory is touched once.
template <class T>
struct StashRoom {
  explicit StashRoom(size_t layers) : blocks(layers) {}
  std::vector<BlockStash<T>> blocks;
  HeadStash<T> head;
  Buffer<T> dembedded_ND;
};

template <class T>
using RoomPool = std::vector<std::unique_ptr<StashRoom<T>>>;

template <class T>
struct StashImpl final : Stash<T> {
  StashImpl(std::shared_ptr<RoomPool<T>> from, size_t layers) : pool(std::move(from)) {
    if (pool->empty()) {
      room = std::make_unique<StashRoom<T>>(layers);
    } else {
      room = std::move(pool->back());
      pool->pop_back();
    }
  }
  ~StashImpl() override { pool->push_back(std::move(room)); }
  StashImpl(const StashImpl&) = delete;
  StashImpl& operator=(const StashImpl&) = delete;
  const MicroBatchLoss& loss() const override { return losses; }

  size_t tokens() const { return batch.tokens.size(); }

  std::shared_ptr<RoomPool<T>> pool;
  std::unique_ptr<StashRoom<T>> room;
  MicroBatch batch;  // empty on a lane without one
  MicroBatchLoss losses;
  bool input_gradient_done = false;
};

}  // namespace holdfast::train
