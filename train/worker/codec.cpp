#include <fmt/format.h>

#include <array>
#include <utility>

#include "base/checksum.h"
#include "train/worker/messages.h"

namespace holdfast::train {
namespace {

// In the order of the variants in messages.h.
constexpr std::array<std::string_view, 12> kFromWorkerTypes = {
    "Hello",         "Quiesced", "Restored",    "RestoreFailed", "StepDone", "Captured",
    "CaptureMissed", "Stopped",  "StopRefused", "CommBroken",    "Fatal",
    "Running"};
constexpr std::array<std::string_view, 7> kToWorkerTypes = {"Welcome", "Quiesce", "Restore", "Go",
                                                            "Capture", "StopAt",  "Exit"};
static_assert(kFromWorkerTypes.size() == std::variant_size_v<FromWorker>);
static_assert(kToWorkerTypes.size() == std::variant_size_v<ToWorker>);

template <class Variant, size_t N>
std::string encode_variant(const Variant& message, const std::array<std::string_view, N>& types) {
  boost::json::object frame;
  frame["type"] = types[message.index()];
  frame["body"] =
      std::visit([](const auto& body) { return boost::json::value_from(body); }, message);
  return boost::json::serialize(frame);
}

template <class Variant, size_t N, size_t... I>
Result<Variant> decode_body(std::string_view type, const boost::json::value& body,
                            const std::array<std::string_view, N>& types,
                            std::index_sequence<I...>) {
  Result<Variant> decoded =
      fail(ErrorCode::kBadMessage, fmt::format("worker link: unknown message type \"{}\"", type));
  const auto try_one = [&](auto index) {
    if (types[index] != type) return false;
    auto value = from_json<std::variant_alternative_t<decltype(index)::value, Variant>>(
        body, fmt::format("worker link: {}", type));
    if (value)
      decoded = Variant(std::in_place_index<decltype(index)::value>, std::move(*value));
    else
      decoded = fail(std::move(value).error());
    return true;
  };
  (void)(try_one(std::integral_constant<size_t, I>{}) || ...);
  return decoded;
}

template <class Variant, size_t N>
Result<Variant> decode_variant(std::string_view text,
                               const std::array<std::string_view, N>& types) {
  ASSIGN_OR_RETURN(const boost::json::value frame, parse_json(text, "worker link: frame"));
  const boost::json::object* object = frame.if_object();
  const boost::json::value* type = object == nullptr ? nullptr : object->if_contains("type");
  const boost::json::value* body = object == nullptr ? nullptr : object->if_contains("body");
  if (type == nullptr || !type->is_string() || body == nullptr || object->size() != 2)
    return fail(ErrorCode::kBadMessage,
                "worker link: a frame must be {\"type\": \"...\", \"body\": {...}}");
  const boost::json::string& name = type->get_string();
  return decode_body<Variant>(std::string_view(name.data(), name.size()), *body, types,
                              std::make_index_sequence<N>());
}

}  // namespace

std::string encode(const FromWorker& message) { return encode_variant(message, kFromWorkerTypes); }
std::string encode(const ToWorker& message) { return encode_variant(message, kToWorkerTypes); }

Result<FromWorker> decode_from_worker(std::string_view text) {
  return decode_variant<FromWorker>(text, kFromWorkerTypes);
}
Result<ToWorker> decode_to_worker(std::string_view text) {
  return decode_variant<ToWorker>(text, kToWorkerTypes);
}

uint64_t job_hash(const conf::JobConfig& job, Epoch submitted_in) {
  return checksum64(to_json_text(job) + to_json_text(submitted_in));
}

std::string job_key(const conf::JobConfig& job, Epoch submitted_in) {
  return fmt::format("{:016x}", job_hash(job, submitted_in));
}

}  // namespace holdfast::train
