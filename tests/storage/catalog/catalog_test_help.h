// A folder for one catalog that goes away with the test.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "storage/catalog/catalog.h"

namespace holdfast::storage {

class Folder {
 public:
  Folder() {
    std::string name = ::testing::TempDir() + "holdfast-catalog-XXXXXX";
    if (::mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline CatalogIdentity identity() { return {"test", NodeId("node-0")}; }

}  // namespace holdfast::storage
