// Dispatch and combine: which row of a micro-batch goes to which lane, and back. Tokens are sent to
// the lanes whose slots hold their experts; there the rows are put into expert order, so that each
// expert computes as few products as the mode allows.
//
// The plan is a pure function of the choices of this lane, the counts of all lanes and the
// placement; it is kept in the stash, and I takes the same way as F.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "train/comm/communicator.h"
#include "train/kernels/experts.h"
#include "train/placement/placement.h"

namespace holdfast::train {

struct DispatchPlan {
  // As the source: rows are sent by lane, then expert, then in the order of tokens.
  std::vector<uint32_t> row_of_choice;  // [N * K]: the sent row of a token's k-th choice, or kNoRow
  std::vector<uint32_t> token_of_row;   // [sent]
  std::vector<size_t> sent_rows;        // [lane]
  // As the host: rows arrive by source lane, then expert, and are computed by expert, then lane.
  std::vector<size_t> received_rows;   // [lane]
  std::vector<uint32_t> place_of_row;  // [received]: where a received row lies in expert order
  std::vector<kernels::ExpertRows> products;  // expert order; none is empty

  size_t sent() const { return token_of_row.size(); }
  size_t received() const { return place_of_row.size(); }
};

struct DispatchRule {
  uint32_t lane = 0;  // this lane
  // Default: a micro-batch's rows for an expert are spread evenly over the expert's slots and all
  // lanes' rows share one product. Reproducible: they go whole to one slot, and every (micro-batch,
  // expert) is a product of its own.
  bool reproducible = false;
  // Choices of one micro-batch that each expert takes, the first in the order of tokens; the others are
  // dropped. Empty: all.
  std::span<const uint32_t> most_E = {};
};

// choices: expert ids [N * top_k]; counts[lane * E + e]: choices of that lane's micro-batch.
DispatchPlan plan_dispatch(std::span<const uint32_t> choices, uint32_t top_k,
                           std::span<const uint32_t> counts, const LayerPlacement& placement,
                           DispatchRule rule);

// Only what a host of experts needs, with nothing of this lane's own choices: received_rows, place_of_row
// and products. What comes from a lane depends on that lane's counts alone, so counts may be put
// together from several micro-batches' rounds.
DispatchPlan plan_arrivals(std::span<const uint32_t> counts, const LayerPlacement& placement,
                           DispatchRule rule);

// Every lane's counts [lane * E + e] from this lane's [E].
Result<std::vector<uint32_t>> gather_counts(Communicator& comm, std::span<const uint32_t> counts);

}  // namespace holdfast::train
