#include "base/error.h"

#include <fmt/format.h>

#include <array>

#include "base/check.h"

namespace holdfast {
namespace {

// Exit codes: 1 failed, 2 usage or configuration, 3 not found, 4 wrong state or conflict,
// 5 daemon or peer unreachable, 6 timed out, 7 damaged or foreign data, 8 out of room.
constexpr std::array kTable = {
    ErrorRow{ErrorCode::kConfigSyntax, "config_syntax", "mend the file at the line named", 2},
    ErrorRow{ErrorCode::kConfigUnknownKey, "config_unknown_key",
             "use one of the keys in the annotated sample under conf/", 2},
    ErrorRow{ErrorCode::kConfigValue, "config_value", "choose a value in the range named", 2},
    ErrorRow{ErrorCode::kConfigMissing, "config_missing",
             "give the file or key named; the samples under conf/ show every key", 2},
    ErrorRow{ErrorCode::kModelShape, "model_shape", "change one of the numbers named", 2},
    ErrorRow{ErrorCode::kUsage, "usage", "run the command with --help", 2},
    ErrorRow{ErrorCode::kDataMissing, "data_missing",
             "check the path; `holdfastctl data prepare` makes a token file", 3},
    ErrorRow{ErrorCode::kDataEmpty, "data_empty", "give a file or folder with more text", 2},
    ErrorRow{ErrorCode::kDataFormat, "data_format",
             "give a token file made by `holdfastctl data prepare`, a .bin or a .bin/.idx pair", 7},
    ErrorRow{ErrorCode::kDataDiffers, "data_differs", "give every node the same token file", 7},
    ErrorRow{ErrorCode::kArenaTooSmall, "arena_too_small",
             "make arena.size in node.toml fit, or use a smaller model or fewer replicas", 8},
    ErrorRow{ErrorCode::kArenaFull, "arena_full", "raise arena.size in node.toml", 8},
    ErrorRow{ErrorCode::kArenaCorrupt, "arena_corrupt",
             "move the arena file away and start the daemon again; its shards come back from replicas", 7},
    ErrorRow{ErrorCode::kArenaForeign, "arena_foreign",
             "point arena.path at this node's own file, or move the foreign one away", 7},
    ErrorRow{ErrorCode::kArenaVersion, "arena_version",
             "run the release that wrote it, or move the file away", 7},
    ErrorRow{ErrorCode::kBlockInvalid, "block_invalid",
             "nothing: the block is not used and its shard comes from the next replica", 7},
    ErrorRow{ErrorCode::kBlockMissing, "block_missing",
             "nothing: the shard comes from the next replica", 3},
    ErrorRow{ErrorCode::kCatalogCorrupt, "catalog_corrupt",
             "move the catalog folder away; on the seed node restore it from a backup first", 7},
    ErrorRow{ErrorCode::kCatalogForeign, "catalog_foreign",
             "point state_dir at this node's own folder, or move the foreign catalog away", 7},
    ErrorRow{ErrorCode::kCatalogVersion, "catalog_version",
             "run the release that wrote it, or move the folder away", 7},
    ErrorRow{ErrorCode::kCatalogIo, "catalog_io", "check the disk under state_dir", 1},
    ErrorRow{ErrorCode::kCatalogConflict, "catalog_conflict",
             "another writer was first: read again and decide again", 4},
    ErrorRow{ErrorCode::kFabricUnavailable, "fabric_unavailable",
             "check fabric.provider in node.toml; `fi_info` lists what this machine has", 5},
    ErrorRow{ErrorCode::kFabricLost, "fabric_lost", "nothing: the peer is treated as lost", 5},
    ErrorRow{ErrorCode::kFabricTimeout, "fabric_timeout", "check the network between the two nodes", 6},
    ErrorRow{ErrorCode::kFabricProtocol, "fabric_protocol", "run the same release on every node", 5},
    ErrorRow{ErrorCode::kReplicaRefused, "replica_refused",
             "nothing: another holder is chosen, or the capture is skipped and counted", 4},
    ErrorRow{ErrorCode::kCommAborted, "comm_aborted", "nothing: the view is changing", 4},
    ErrorRow{ErrorCode::kCommPeerLost, "comm_peer_lost", "nothing: the view is changing", 5},
    ErrorRow{ErrorCode::kCommTimeout, "comm_timeout", "check the network between the workers", 6},
    ErrorRow{ErrorCode::kCommSetup, "comm_setup", "check that the workers' addresses reach each other", 5},
    ErrorRow{ErrorCode::kClusterForeign, "cluster_foreign",
             "check cluster.name and cluster.seed in node.toml", 4},
    ErrorRow{ErrorCode::kClusterVersion, "cluster_version", "run the same release on every node", 4},
    ErrorRow{ErrorCode::kEpochOld, "epoch_old", "nothing: the message is ignored, its sender re-joins", 4},
    ErrorRow{ErrorCode::kPeerUnreachable, "peer_unreachable",
             "check that holdfastd runs there and that the address is right", 5},
    ErrorRow{ErrorCode::kNotCoordinator, "not_coordinator", "ask the seed node named", 4},
    ErrorRow{ErrorCode::kBadMessage, "bad_message", "run the same release on every node", 4},
    ErrorRow{ErrorCode::kRestoreImpossible, "restore_impossible",
             "bring back the nodes named, or start the job anew", 1},
    ErrorRow{ErrorCode::kJobExists, "job_exists",
             "choose another name, or `holdfastctl job remove` the old one when it has ended", 4},
    ErrorRow{ErrorCode::kJobUnknown, "job_unknown", "`holdfastctl job list` shows the jobs", 3},
    ErrorRow{ErrorCode::kJobState, "job_state", "`holdfastctl job show` tells the job's state", 4},
    ErrorRow{ErrorCode::kGradientOverflow, "gradient_overflow",
             "lower the learning rate, or run without reproducible mode", 1},
    ErrorRow{ErrorCode::kLossNotFinite, "loss_not_finite",
             "lower the learning rate or lengthen the warm-up", 1},
    ErrorRow{ErrorCode::kPlanImpossible, "plan_impossible", "change what is named", 2},
    ErrorRow{ErrorCode::kPlanText, "plan_text", "write the plan as docs/plans.md shows", 7},
    ErrorRow{ErrorCode::kSolverMissing, "solver_missing",
             "install coinor-libcbc-dev and build again, or use the fast planner", 3},
    ErrorRow{ErrorCode::kSolverLimit, "solver_limit",
             "use the fast planner, or fewer pipelines, stages and micro-batches", 6},
    ErrorRow{ErrorCode::kDeviceMissing, "device_missing",
             "install what is named; HOLDFAST_CUDA_LIBRARIES lists more folders to look in", 3},
    ErrorRow{ErrorCode::kDeviceFailed, "device_failed",
             "nothing: the worker is started anew; if it comes back, look with `nvidia-smi`", 1},
    ErrorRow{ErrorCode::kDeviceMemory, "device_memory",
             "use smaller micro-batches, more workers or a smaller `tolerate`", 8},
    ErrorRow{ErrorCode::kFileIo, "file_io", "check the path or address named, and its permissions", 1},
    ErrorRow{ErrorCode::kDiskFull, "disk_full", "make room on the file system named", 8},
    ErrorRow{ErrorCode::kAddressInUse, "address_in_use",
             "stop the program that holds it, or choose another port or socket", 4},
    ErrorRow{ErrorCode::kProcess, "process", "see the node's log for the reason", 1},
    ErrorRow{ErrorCode::kTimeout, "timeout", "try again; the node's log may tell what hangs", 6},
    ErrorRow{ErrorCode::kQueueFull, "queue_full", "nothing: the sender slows down", 4},
    ErrorRow{ErrorCode::kNotFound, "not_found", "check the name or folder given", 3},
    ErrorRow{ErrorCode::kInterrupted, "interrupted", "nothing: what was started has been stopped", 1},
    ErrorRow{ErrorCode::kInternal, "internal", "report this with the node's log", 1},
};

constexpr bool table_is_ordered() {
  for (size_t i = 1; i < kTable.size(); ++i)
    if (!(kTable[i - 1].code < kTable[i].code)) return false;
  return true;
}
static_assert(table_is_ordered());

}  // namespace

std::span<const ErrorRow> error_table() { return kTable; }

const ErrorRow& error_row(ErrorCode code) {
  for (const ErrorRow& row : kTable)
    if (row.code == code) return row;
  CHECK(false, "error code {} is not in the table", static_cast<int>(code));
}

std::string Error::to_string() const {
  const ErrorRow& row = error_row(code);
  return fmt::format("HF-{} {}: {}; {}", static_cast<int>(code), row.name, message, row.hint);
}

Error with_context(Error error, std::string_view context) {
  error.message = fmt::format("{} ({})", error.message, context);
  return error;
}

}  // namespace holdfast
