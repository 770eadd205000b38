#include "train/worker/base64.h"

#include <fmt/format.h>
#include <openssl/evp.h>

namespace holdfast::train {

std::string to_base64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // the library ends it with a zero
  const int length = ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                       reinterpret_cast<const unsigned char*>(bytes.data()),
                                       static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(length));
  return text;
}

Result<std::string> from_base64(std::string_view text) {
  std::string bytes(text.size() / 4 * 3, '\0');
  const int length =
      text.empty() ? 0
                   : ::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                       reinterpret_cast<const unsigned char*>(text.data()),
                                       static_cast<int>(text.size()));
  if (length >= 0) {
    const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
    bytes.resize(static_cast<size_t>(length) - padding);
    // The decoder is lenient (it skips white space): what differs when written again is refused.
    if (to_base64(bytes) == text) return bytes;
  }
  return fail(ErrorCode::kBadMessage,
              fmt::format("{} characters are not base64", text.size()));
}

}  // namespace holdfast::train
