#!/bin/sh
# The unit file: systemd has nothing to say about it, and ends that come back are not retried at once.
# Usage: unit_test.sh <source folder>
set -eu
unit=$1/systemd/holdfastd.service
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Unknown keys do not change the exit status of `verify`: any output is a failure.
if command -v systemd-analyze > /dev/null; then
  sed 's|^ExecStart=.*|ExecStart=/bin/true|; /^Documentation=/d' "$unit" > "$work/holdfastd.service"
  said=$(systemd-analyze verify --man=no "$work/holdfastd.service" 2>&1) || true
  if [ -n "$said" ]; then
    echo "systemd-analyze verify: $said"
    exit 1
  fi
else
  echo "no systemd-analyze on this machine: the unit is not verified"
fi

# What runs after each end, as systemd would: "$$" is its way to write "$".
after_end=$(sed -n "s|^ExecStopPost=/bin/sh -c '\(.*\)'\$|\1|p" "$unit" | sed 's/\$\$/$/g')
[ -n "$after_end" ]
printf '#!/bin/sh\necho "slept $1"\n' > "$work/sleep"
chmod +x "$work/sleep"
for end in 4 8 0 1 2 7 TERM KILL; do
  did=$(PATH="$work:$PATH" EXIT_STATUS=$end /bin/sh -c "$after_end")
  case $end in 4 | 8) wanted='slept 10' ;; *) wanted='' ;; esac
  if [ "$did" != "$wanted" ]; then
    echo "after exit code $end: '$did' instead of '$wanted'"
    exit 1
  fi
done
