#include "base/fault_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <string>

namespace holdfast {
namespace {

struct Link {
  std::string name;
  std::string action = "kill";
  std::atomic<long> passes_left{1};
};

struct Chain {
  std::deque<Link> links;         // empty: nothing is armed
  std::atomic<size_t> current{0};  // the link whose passes count
};

// "name", "name:3", "name:3:stop"
void parse_link(std::string_view text, Link& link) {
  const size_t colon = text.find(':');
  link.name = text.substr(0, colon);
  if (colon == std::string_view::npos) return;
  text.remove_prefix(colon + 1);
  const size_t second = text.find(':');
  link.passes_left = std::atol(std::string(text.substr(0, second)).c_str());
  if (second != std::string_view::npos) link.action = text.substr(second + 1);
}

Chain& chain() {
  static Chain value;
  static const bool parsed = [] {
    const char* text = std::getenv("HOLDFAST_FAULT");
    std::string_view rest = text == nullptr ? std::string_view() : text;
    while (!rest.empty()) {
      const size_t plus = rest.find('+');
      parse_link(rest.substr(0, plus), value.links.emplace_back());
      rest = plus == std::string_view::npos ? std::string_view() : rest.substr(plus + 1);
    }
    return true;
  }();
  (void)parsed;
  return value;
}

}  // namespace

bool fault_point_fails(std::string_view name) {
  Chain& armed = chain();
  const size_t at = armed.current.load();
  if (at >= armed.links.size() || armed.links[at].name != name) return false;
  if (armed.links[at].passes_left.fetch_sub(1) != 1) return false;
  armed.current.store(at + 1);  // of all threads one has seen the last pass
  if (at + 1 < armed.links.size()) return false;
  const std::string& action = armed.links[at].action;
  if (action == "error") return true;
  ::kill(::getpid(), action == "stop" ? SIGSTOP : SIGKILL);
  return false;
}

}  // namespace holdfast
