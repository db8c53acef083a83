#!/usr/bin/env bash
# Runs all tests and prints the account of them; called by `make test`, which sets the variables.
#
#   GO         the go command
#   HEAVY      package patterns that are tested without the race detector in full, and with it for RACE_RUN only
#   RACE_RUN   pattern of those tests
#   TESTFLAGS  further flags for go test
#   FUZZTIME   how long each fuzz target runs
#   IMGTOOL_SEED  of the randomised tests. Without it they have the same one each time: what is judged here is the code,
#              not the dice. `make soak`, and go test by itself, throw them anew.
set -uo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
export IMGTOOL_SEED=${IMGTOOL_SEED:-1}
out=out/test
mkdir -p $out
rm -f $out/*.json
status=0

# run NAME FLAGS... PACKAGES...: one go test; its failures are printed when they happen, its events kept in $out.
# Results are never taken from the cache: what the kernel and btrfs-progs say is no input that go test knows of.
run() {
  local name=$1
  shift
  echo "== tests: $name"
  # shellcheck disable=SC2086
  $GO test -json -count=1 -timeout 14m ${TESTFLAGS:-} "$@" | bin/testsum -save "$out/$name.json" || status=1
}

if ! all=$($GO list ./...); then
  exit 1
fi
heavy=
if [ -n "${HEAVY:-}" ]; then
  # shellcheck disable=SC2086
  heavy=$(comm -12 <(sort -u <<<"$all") <($GO list -e $HEAVY 2>/dev/null | sort -u))
fi
light=$(comm -23 <(sort -u <<<"$all") <(sort -u <<<"$heavy"))

race=-race
if [ "$($GO env CGO_ENABLED)" != 1 ] || ! command -v "$($GO env CC)" >/dev/null 2>&1; then
  echo "the race detector needs cgo and a C compiler: testing without it"
  race=
  [ "${CI:-}" != true ] || { echo "which is a failure in CI"; status=1; }
fi

# shellcheck disable=SC2086
{
  [ -z "$light" ] || run light $race $light
  [ -z "$heavy" ] || run heavy $heavy
  [ -z "$heavy" ] || [ -z "$race" ] || run heavy-race $race -run "${RACE_RUN:-.}" $heavy
}
.ci/fuzz.sh || status=1

bin/testsum $out/*.json || status=1
exit $status
