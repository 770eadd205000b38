#include "base/fault_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace holdfast {
namespace {

struct Armed {
  std::string name;
  long passes_left = 0;
  std::string action;
};

Armed parse(const char* text) {
  Armed armed;
  std::string_view rest = text == nullptr ? std::string_view() : text;
  if (rest.empty()) return armed;
  const size_t colon = rest.find(':');
  armed.name = rest.substr(0, colon);
  armed.passes_left = 1;
  armed.action = "kill";
  if (colon == std::string_view::npos) return armed;
  rest.remove_prefix(colon + 1);
  const size_t second = rest.find(':');
  armed.passes_left = std::atol(std::string(rest.substr(0, second)).c_str());
  if (second != std::string_view::npos) armed.action = rest.substr(second + 1);
  return armed;
}

const Armed& armed() {
  static const Armed value = parse(std::getenv("HOLDFAST_FAULT"));
  return value;
}

}  // namespace

bool fault_point_fails(std::string_view name) {
  const Armed& a = armed();
  if (a.name.empty() || a.name != name) return false;
  static std::atomic<long> left{a.passes_left};
  if (left.fetch_sub(1) != 1) return false;
  if (a.action == "error") return true;
  ::kill(::getpid(), a.action == "stop" ? SIGSTOP : SIGKILL);
  return false;
}

}  // namespace holdfast
