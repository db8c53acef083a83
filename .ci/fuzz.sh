#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (default 10s), FUZZJOBS (default: one a CPU) at a time with one worker
# each: go test takes one target at a time. A new failing input is written by go test to the package's testdata/fuzz, to
# be committed with the fix. Events go to out/test, for bin/testsum.
set -uo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
out=out/test
mkdir -p $out
status=0
failed=$out/fuzz-failed # there if a target failed: which of its jobs wait has reported, bash does not say
rm -f "$failed"

# The fuzzer of Go 1.25 and 1.26 now and then takes the end of its own time for a failure (go.dev/issue/75804; mended in
# 1.27): it reports "context deadline exceeded", and no input. Such a run says nothing about the target and is made again;
# what the target itself reports has a file and a line before it, and an input that is written.
overslept() {
  grep -qE '^ *context deadline exceeded$' <<<"$1" && ! grep -qE 'Failing input|seed corpus entry' <<<"$1"
}

# one DIR TARGET: runs one target; what it prints comes out in one piece.
one() {
  local events="$out/fuzz-$(tr -c 'A-Za-z0-9\n' '-' <<<"$1")-$2.json" text good try
  for try in 1 2 3 4; do
    good=yes
    text=$($GO test -json -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 10x -parallel 1 "$1" 2>&1 |
      bin/testsum -save "$events" 2>&1) || good=no
    # The status is that of go test, of which the pipe tells us; bin/testsum writes the events anew each time.
    if [ $good = yes ] || ! overslept "$text"; then
      break
    fi
  done
  [ $good = yes ] || touch "$failed"
  printf '== fuzz: %s %s\n%s\n' "$1" "$2" "$text"
}

# Only packages that have a target are compiled to be asked for their names.
dirs=$(grep -rlE --include='*_test.go' '^func Fuzz[A-Z0-9_]' . | xargs -r -n 1 dirname | sort -u)
jobs=${FUZZJOBS:-$(nproc)}
for dir in $dirs; do
  if ! listed=$($GO test -list '^Fuzz' "$dir"); then
    echo "$listed"
    status=1
    continue
  fi
  for target in $(grep '^Fuzz' <<<"$listed"); do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
      wait -n
    done
    one "$dir" "$target" &
  done
done
wait
[ ! -e "$failed" ] || status=1
exit $status
