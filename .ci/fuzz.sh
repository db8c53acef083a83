#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (default 3s), one after the other: go test takes one target at a
# time. A new failing input is written by go test to the package's testdata/fuzz, to be committed with the fix.
# Events go to out/test, for bin/testsum.
set -uo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
out=out/test
mkdir -p $out
status=0

# Only packages that have a target are compiled to be asked for their names.
dirs=$(grep -rlE --include='*_test.go' '^func Fuzz[A-Z0-9_]' . | xargs -r -n 1 dirname | sort -u)
for dir in $dirs; do
  if ! listed=$($GO test -list '^Fuzz' "$dir"); then
    echo "$listed"
    status=1
    continue
  fi
  for target in $(grep '^Fuzz' <<<"$listed"); do
    echo "== fuzz: $dir $target"
    events="$out/fuzz-$(tr -c 'A-Za-z0-9\n' '-' <<<"$dir")-$target.json"
    $GO test -json -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-3s}" -fuzzminimizetime 10x "$dir" | bin/testsum -save "$events" || status=1
  done
done
exit $status
