#include "train/comm/gloo_address.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <optional>

namespace holdfast::train {
namespace {

static_assert(std::endian::native == std::endian::little);
constexpr std::string_view kMagic = "HFG1";
constexpr uint32_t kMostRanks = 1 << 16;

void put(std::string& out, uint32_t value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::optional<uint32_t> take(std::string_view& in) {
  uint32_t value;
  if (in.size() < sizeof value) return std::nullopt;
  std::memcpy(&value, in.data(), sizeof value);
  in.remove_prefix(sizeof value);
  return value;
}

}  // namespace

std::string encode(const GlooAddress& address) {
  std::string out(kMagic);
  put(out, address.rank);
  put(out, static_cast<uint32_t>(address.pairs.size()));
  for (const std::string& pair : address.pairs) {
    put(out, static_cast<uint32_t>(pair.size()));
    out += pair;
  }
  return out;
}

Result<GlooAddress> decode_gloo_address(std::string_view blob) {
  const auto bad = [](const std::string& what) {
    return fail(ErrorCode::kCommSetup, "a rank's address is not readable: " + what);
  };
  if (!blob.starts_with(kMagic)) return bad("it does not begin with HFG1");
  blob.remove_prefix(kMagic.size());
  const auto rank = take(blob);
  const auto size = take(blob);
  if (!rank || !size || *size > kMostRanks || *rank >= *size) return bad("rank or size");
  GlooAddress address{*rank, {}};
  for (uint32_t r = 0; r < *size; ++r) {
    const auto length = take(blob);
    if (!length || *length > blob.size()) return bad(fmt::format("the address for rank {}", r));
    address.pairs.emplace_back(blob.substr(0, *length));
    blob.remove_prefix(*length);
  }
  if (!blob.empty()) return bad("bytes are left over");
  return address;
}

}  // namespace holdfast::train
