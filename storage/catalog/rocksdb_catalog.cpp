// The catalog on disk. Every user key is stored behind 'k', our own records behind 'm'.
#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/listener.h>
#include <rocksdb/write_batch.h>

#include "base/mutex.h"
#include "storage/catalog/catalog.h"
#include "storage/catalog/files.h"
#include "storage/catalog/keys.h"
#include "storage/catalog/status.h"

namespace holdfast::storage {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kFormatVersion = 2;
const std::string kFormatKey = "mformat";
const std::string kClusterKey = "mcluster";
const std::string kNodeKey = "mnode";

std::string user_key(const std::string& key) { return "k" + key; }

// RocksDB's own recovery from a full disk waits for more room than a catalog needs, and keeps ours
// out.
class RecoverOnlyWhenAsked final : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

rocksdb::Options catalog_options() {
  rocksdb::Options options;
  options.write_buffer_size = 4 << 20;
  options.max_total_wal_size = 16 << 20;
  options.max_background_jobs = 2;
  options.paranoid_checks = true;
  options.track_and_verify_wals_in_manifest = true;
  // A record cut off at the end is a write that nobody was told of; damage before it is an error.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.max_log_file_size = 1 << 20;
  options.keep_log_file_num = 2;
  options.max_open_files = 64;
  options.listeners.push_back(std::make_shared<RecoverOnlyWhenAsked>());
  return options;
}

rocksdb::WriteOptions write_options(Durability durability) {
  rocksdb::WriteOptions options;
  options.sync = durability == Durability::kSynced;
  return options;
}

class RocksdbCatalog final : public Catalog {
 public:
  RocksdbCatalog(std::unique_ptr<rocksdb::DB> db, fs::path directory)
      : db_(std::move(db)), directory_(std::move(directory)) {}

  Result<std::optional<std::string>> get(const std::string& key) override {
    return get_raw(user_key(key));
  }

  Status write(const std::vector<Write>& writes, Durability durability) override {
    rocksdb::WriteBatch batch;
    for (const Write& write : writes) {
      if (write.value)
        batch.Put(user_key(write.key), *write.value);
      else
        batch.Delete(user_key(write.key));
    }
    const MutexLock lock(mutex_);
    return apply(batch, durability);
  }

  Status compare_and_swap(const std::string& key, const std::optional<std::string>& expected,
                          const std::string& value) override {
    const MutexLock lock(mutex_);
    ASSIGN_OR_RETURN(const std::optional<std::string> current, get(key));
    if (current != expected) return fail(swap_conflict(key));
    rocksdb::WriteBatch batch;
    batch.Put(user_key(key), value);
    return apply(batch, Durability::kSynced);
  }

  Result<std::vector<Entry>> scan(const std::string& prefix, const std::string& from, size_t limit,
                                  bool newest_first) override;

  Status check_identity(const CatalogIdentity& identity);
  Status write_identity(const CatalogIdentity& identity);
  // Reads every file once: damage is found now and not at its first use.
  Status verify() { return checked(db_->VerifyChecksum(), "verify"); }

 private:
  Status checked(const rocksdb::Status& status, const char* what) const {
    if (status.ok()) return {};
    return fail(catalog_error(status, what, directory_));
  }
  Result<std::optional<std::string>> get_raw(const std::string& key) const {
    std::string value;
    const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), key, &value);
    if (status.IsNotFound()) return std::optional<std::string>();
    RETURN_IF_ERROR(checked(status, "read"));
    return std::optional<std::string>(std::move(value));
  }
  // After a failed write (a full disk) RocksDB refuses all others until it is told to try again.
  Status apply(rocksdb::WriteBatch& batch, Durability durability) REQUIRES(mutex_) {
    if (write_failed_) RETURN_IF_ERROR(checked(db_->Resume(), "resume"));
    const rocksdb::Status status = db_->Write(write_options(durability), &batch);
    write_failed_ = !status.ok();
    return checked(status, "write");
  }

  const std::unique_ptr<rocksdb::DB> db_;
  const fs::path directory_;
  Mutex mutex_;
  bool write_failed_ GUARDED_BY(mutex_) = false;
};

Result<std::vector<Catalog::Entry>> RocksdbCatalog::scan(const std::string& prefix,
                                                         const std::string& from, size_t limit,
                                                         bool newest_first) {
  const std::string begin = user_key(std::max(prefix, from));
  const std::string end = prefix_end(user_key(prefix));
  std::vector<Entry> found;
  if (begin >= end) return found;  // `from` lies behind the whole prefix
  const rocksdb::Slice lower(begin);
  const rocksdb::Slice upper(end);
  rocksdb::ReadOptions options;
  options.iterate_lower_bound = &lower;
  options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(options));
  for (newest_first ? at->SeekToLast() : at->SeekToFirst(); at->Valid() && found.size() < limit;
       newest_first ? at->Prev() : at->Next())
    found.emplace_back(at->key().ToString().substr(1), at->value().ToString());
  RETURN_IF_ERROR(checked(at->status(), "scan"));
  return found;
}

Status RocksdbCatalog::write_identity(const CatalogIdentity& identity) {
  rocksdb::WriteBatch batch;
  batch.Put(kFormatKey, std::to_string(kFormatVersion));
  batch.Put(kClusterKey, identity.cluster);
  batch.Put(kNodeKey, identity.node.value);
  const MutexLock lock(mutex_);
  return apply(batch, Durability::kSynced);
}

Status RocksdbCatalog::check_identity(const CatalogIdentity& identity) {
  ASSIGN_OR_RETURN(const auto format, get_raw(kFormatKey));
  ASSIGN_OR_RETURN(const auto cluster, get_raw(kClusterKey));
  ASSIGN_OR_RETURN(const auto node, get_raw(kNodeKey));
  if (!format)
    return fail(ErrorCode::kCatalogCorrupt,
                fmt::format("catalog {}: it does not say whose it is", directory_.string()));
  if (*format != std::to_string(kFormatVersion))
    return fail(ErrorCode::kCatalogVersion,
                fmt::format("catalog {}: format {}, this release reads {}", directory_.string(),
                            *format, kFormatVersion));
  if (cluster != identity.cluster || node != identity.node.value)
    return fail(ErrorCode::kCatalogForeign,
                fmt::format("catalog {} belongs to node '{}' of cluster '{}', this is node '{}' of "
                            "cluster '{}'",
                            directory_.string(), node.value_or("?"), cluster.value_or("?"),
                            identity.node.value, identity.cluster));
  return {};
}

Result<std::unique_ptr<RocksdbCatalog>> open_files(const fs::path& directory, bool create) {
  rocksdb::Options options = catalog_options();
  options.create_if_missing = create;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(options, directory.string(), &db);
  if (!status.ok()) return fail(catalog_error(status, "open", directory));
  return std::make_unique<RocksdbCatalog>(std::unique_ptr<rocksdb::DB>(db), directory);
}

}  // namespace

Result<std::unique_ptr<Catalog>> open_rocksdb_catalog(const fs::path& directory,
                                                      const CatalogIdentity& identity) {
  ASSIGN_OR_RETURN(const bool exists, catalog_files_exist(directory));
  if (!exists) {
    RETURN_IF_ERROR(create_catalog_files(directory, [&](const fs::path& unnamed) -> Status {
      ASSIGN_OR_RETURN(auto catalog, open_files(unnamed, true));
      return catalog->write_identity(identity);
    }));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<RocksdbCatalog> catalog, open_files(directory, false));
  RETURN_IF_ERROR(catalog->verify());
  RETURN_IF_ERROR(catalog->check_identity(identity));
  return std::unique_ptr<Catalog>(std::move(catalog));
}

}  // namespace holdfast::storage
