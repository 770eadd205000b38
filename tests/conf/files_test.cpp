// A configuration file that cannot be read is told with the system's reason.
#include "conf/files.h"

#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>

namespace holdfast::conf {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class ConfigFile : public ::testing::Test {
 protected:
  ConfigFile() {
    std::string name = (fs::temp_directory_path() / "holdfast-files-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~ConfigFile() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  Error error_of(const fs::path& file) {
    const auto text = read_config_file(file);
    EXPECT_FALSE(text) << file;
    return text ? Error{} : text.error();
  }
  fs::path folder_;
};

TEST_F(ConfigFile, IsReadWhole) {
  std::ofstream(folder_ / "a.toml") << "a = 1\nb = 2";
  EXPECT_EQ(read_config_file(folder_ / "a.toml").value(), "a = 1\nb = 2");
  std::ofstream(folder_ / "empty.toml").flush();
  EXPECT_EQ(read_config_file(folder_ / "empty.toml").value(), "");
}

TEST_F(ConfigFile, ThatIsMissingOrAFolderIsTold) {
  EXPECT_EQ(error_of(folder_ / "none.toml").code, ErrorCode::kConfigMissing);
  EXPECT_THAT(error_of(folder_).message, HasSubstr("is a folder"));
}

// What can be had as root too: a socket cannot be opened, a name can be too long to look for.
TEST_F(ConfigFile, ThatCannotBeOpenedIsToldWithTheReason) {
  const fs::path file = folder_ / "socket";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  file.string().copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
  EXPECT_EQ(error_of(file).code, ErrorCode::kFileIo);
  EXPECT_THAT(error_of(file).message, HasSubstr("cannot open " + file.string() + ": No such dev"));
  EXPECT_EQ(error_of(folder_ / std::string(300, 'x')).code, ErrorCode::kFileIo);
  EXPECT_THAT(error_of(folder_ / std::string(300, 'x')).message, HasSubstr("name too long"));
}

}  // namespace
}  // namespace holdfast::conf
