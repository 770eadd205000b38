// Strong ids: a swapped pair of arguments must not compile. See docs/architecture.md for the words.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace holdfast {

template <class Tag, class Rep>
struct StrongId {
  Rep value{};

  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep v) : value(std::move(v)) {}
  constexpr auto operator<=>(const StrongId&) const = default;
  constexpr StrongId next() const { return StrongId(value + 1); }
};

using NodeId = StrongId<struct NodeIdTag, std::string>;         // unique in the cluster: "node-0"
using JobId = StrongId<struct JobIdTag, std::string>;           // chosen by the person: "tiny-moe"
using Step = StrongId<struct StepTag, uint64_t>;                // step s makes version s + 1
using Version = StrongId<struct VersionTag, uint64_t>;          // updates applied
using Lane = StrongId<struct LaneTag, uint32_t>;                // place among the live of a stage group
using PipelineIndex = StrongId<struct PipelineTag, uint32_t>;   // 0 .. D-1
using StageIndex = StrongId<struct StageTag, uint32_t>;         // 0 .. S-1
using LayerIndex = StrongId<struct LayerTag, uint32_t>;
using ExpertIndex = StrongId<struct ExpertTag, uint32_t>;
using GroupIndex = StrongId<struct GroupTag, uint32_t>;         // parameter group, canonical order
using SliceIndex = StrongId<struct SliceTag, uint32_t>;         // 0 .. P-1
using MicroBatchIndex = StrongId<struct MicroBatchTag, uint32_t>;  // 0 .. D*M-1 within a step

// A worker's place. Ordered by stage, then by pipeline, as the members of a view are.
struct Coordinate {
  PipelineIndex pipeline;
  StageIndex stage;

  constexpr bool operator==(const Coordinate&) const = default;
  constexpr std::strong_ordering operator<=>(const Coordinate& other) const {
    if (const auto by_stage = stage <=> other.stage; by_stage != 0) return by_stage;
    return pipeline <=> other.pipeline;
  }
};

// The numbered membership. A cluster that lost its catalog gets a new incarnation, so that an epoch
// number never names two views.
struct Epoch {
  uint32_t incarnation = 0;
  uint32_t number = 0;

  constexpr auto operator<=>(const Epoch&) const = default;
  constexpr Epoch next() const { return {incarnation, number + 1}; }
  constexpr uint64_t packed() const { return (uint64_t{incarnation} << 32) | number; }
  static constexpr Epoch unpacked(uint64_t p) {
    return {static_cast<uint32_t>(p >> 32), static_cast<uint32_t>(p)};
  }
};

// One slice of one parameter group.
struct ShardId {
  GroupIndex group;
  SliceIndex slice;

  constexpr auto operator<=>(const ShardId&) const = default;
  // Flat number, group-major; `slices` is the job's P.
  constexpr uint32_t flat(uint32_t slices) const { return group.value * slices + slice.value; }
  static constexpr ShardId unflat(uint32_t flat, uint32_t slices) {
    return {GroupIndex(flat / slices), SliceIndex(flat % slices)};
  }
};

// The state after `version` updates, computed in epoch `made`. Recomputing a step gives another
// state, so a bare number names nothing.
struct StateVersion {
  Version version;
  Epoch made;

  constexpr auto operator<=>(const StateVersion&) const = default;
};

std::string to_string(Coordinate coordinate);      // "(1,2)": pipeline, stage
std::string to_string(Epoch epoch);                // "3.17": incarnation, number
std::string to_string(ShardId shard);              // "g5/s2"
std::string to_string(const StateVersion& state);  // "v120@3.17"

}  // namespace holdfast

template <class Tag, class Rep>
struct std::hash<holdfast::StrongId<Tag, Rep>> {
  size_t operator()(const holdfast::StrongId<Tag, Rep>& id) const {
    return std::hash<Rep>{}(id.value);
  }
};
