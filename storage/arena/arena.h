// The arena: a node's snapshot memory, one file in tmpfs that daemon and workers map; it outlives
// both. It holds blocks: one captured shard each. The layout on disk is storage/arena/layout.h and
// docs/formats.md.
//
// Life of a block: free -> allocated (writer and epoch recorded, before the first byte) ->
// published (header with ids, version, made, length, checksum: written last) -> free. What is only
// allocated counts for nothing; after a restart the daemon learns what it has by scanning headers.
// There is no second record to disagree with them.
//
// Arena is the daemon's handle: it alone allocates and frees. ArenaMapping is what workers (and the
// replica commit) use: payload bytes and publishing of a granted block. Both are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace holdfast::storage {

using BlockIndex = StrongId<struct BlockIndexTag, uint32_t>;

// What a published block says about itself.
struct BlockHeader {
  uint64_t job = 0;  // checksum64 of the job's name and config: blocks of another job never match
  ShardId shard;
  StateVersion state;
  uint64_t length = 0;    // payload bytes
  uint64_t checksum = 0;  // checksum64 of the payload, taken at capture
  bool operator==(const BlockHeader&) const = default;
};

struct BlockInfo {
  BlockIndex index;
  uint64_t offset = 0;  // payload, bytes from the start of the file; 4096-aligned
  uint64_t capacity = 0;
  NodeId writer;  // who was granted the block: its own node, or the peer that replicates into it
  Epoch granted_in;
  // Numbers the grants of this index: the same index granted again is another block.
  uint64_t generation = 0;
  std::optional<BlockHeader> header;  // nullopt: allocated, not published
};

// A mapped arena file.
class ArenaMapping {
 public:
  // kArenaCorrupt, kArenaVersion, kFileIo. Never creates.
  static Result<std::unique_ptr<ArenaMapping>> map(const std::filesystem::path& path);
  virtual ~ArenaMapping() = default;

  virtual std::span<std::byte> bytes() = 0;  // the whole file: what fabric registers
  virtual Result<BlockInfo> info(BlockIndex block) = 0;
  // The payload area of an allocated block, capacity bytes.
  virtual Result<std::span<std::byte>> payload(BlockIndex block) = 0;
  // Makes the block count. The caller has written header.length bytes of payload with that
  // checksum. kBlockInvalid when the block is not allocated, is granted in another epoch than
  // `granted_in`, or length exceeds its capacity. Publishing the same header again does nothing;
  // another one is refused.
  virtual Status publish(BlockIndex block, Epoch granted_in, const BlockHeader& header) = 0;
  // The payload of a published block after its checksum has been verified just now; kBlockInvalid
  // names file, block, shard and both sums. `expected`: any other job, shard or state is rejected,
  // and, unless expected.checksum is 0 (not known), any other length or checksum.
  virtual Result<std::span<const std::byte>> read_verified(BlockIndex block,
                                                           const BlockHeader& expected) = 0;
};

struct ArenaOptions {
  std::filesystem::path path;
  uint64_t size_bytes = 0;
  std::string cluster;
  NodeId node;
};

struct ArenaUsage {
  uint64_t size_bytes = 0;
  uint64_t used_bytes = 0;  // allocated or published
  uint32_t blocks = 0;
  uint64_t granted_bytes = 0;  // of these, allocated and not published: somebody is to write them
  uint32_t granted_blocks = 0;
};

class Arena : public ArenaMapping {
 public:
  // Creates the file (every page reserved, so that a full tmpfs is kDiskFull now and not a SIGBUS
  // later) or adopts the one that is there with its own size: kArenaForeign for another cluster or
  // node, kArenaTooSmall when it has fewer bytes than configured, kArenaVersion, kArenaCorrupt,
  // kAddressInUse while another Arena has it open. Blocks that are allocated but not published are
  // freed unless `writer_may_live` says that their writer may still be writing.
  static Result<std::unique_ptr<Arena>> open(
      const ArenaOptions& options,
      const std::function<bool(const BlockInfo&)>& writer_may_live = {});

  // At least one page. kArenaFull names bytes wanted, free and largest free extent.
  virtual Result<BlockInfo> allocate(uint64_t bytes, const NodeId& writer, Epoch epoch) = 0;
  // The caller vouches that nobody writes into the block any more. kBlockInvalid when it is not
  // allocated, or was freed and granted anew since (another generation): nothing happens then.
  virtual Status free(const BlockInfo& block) = 0;
  // Everything allocated or published, by index.
  virtual std::vector<BlockInfo> scan() = 0;
  virtual ArenaUsage usage() = 0;
  // As publish, by who has just summed the bytes where they lie and found that they have
  // header.checksum: they count as verified.
  virtual Status publish_verified(BlockIndex block, Epoch granted_in,
                                  const BlockHeader& header) = 0;
  // True if this process has found this grant's bytes right, with read_verified or before
  // publish_verified, and never wrong since. Published bytes are not written any more: it need not
  // be summed again before it is offered.
  virtual bool was_verified(const BlockInfo& block) = 0;
  // Random, chosen when the file was made: tells a file from another of the same path. 0: made by a
  // release that did not number them.
  virtual uint64_t id() const = 0;
  // Entries that open found damaged, for the log: kBlockInvalid naming file, block and what is
  // wrong. They count for nothing and their room is free again.
  virtual std::vector<Error> damage() const { return {}; }
};

}  // namespace holdfast::storage
