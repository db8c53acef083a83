#!/usr/bin/env bash
# Runs imgtool side by side with btrfs-progs and the kernel and prints ratios, their time / our time: medians over
# interleaved rounds. What is measured, and how, stands in bench/peers/main.go. The comparisons with the kernel need
# root. Smaller or other sizes by environment:
#
#   PEERS_ROUNDS=5  PEERS_EMPTY=10737418240  PEERS_FILES=20000  PEERS_SNAPSHOTS=200  PEERS_BYTES=1073741824
#   PEERS_CHECK_FILES=200000  PEERS_CHECK_SNAPSHOTS=100  PEERS_SEND_FILES=0 (0: PEERS_SOURCE is sent)
#   PEERS_SOURCE=GOROOT/src  PEERS_DIR=/tmp  PEERS_LOOP_DIRECT_IO=off  PEERS_ONLY=mkfs-empty,create-4k
#   PEERS_QUICK=1   small sizes, to see that it works
#
# Arguments are names of comparisons: `bench/peers.sh check` makes that one only.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
if [ -n "${PEERS_QUICK:-}" ]; then
  : "${PEERS_ROUNDS:=2}" "${PEERS_FILES:=2000}" "${PEERS_SNAPSHOTS:=20}" "${PEERS_BYTES:=67108864}" \
    "${PEERS_CHECK_FILES:=5000}" "${PEERS_CHECK_SNAPSHOTS:=10}"
fi

if [ $# -gt 0 ]; then
  PEERS_ONLY=$(IFS=,; echo "$*")
fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
"$go" build -buildvcs=false -o "$bin/imgtool" ./cmd/imgtool
"$go" build -buildvcs=false -o "$bin/peers" ./bench/peers

"$bin/peers" -imgtool "$bin/imgtool" \
  -source "${PEERS_SOURCE:-$("$go" env GOROOT)/src}" \
  -dir "${PEERS_DIR:-}" \
  -rounds "${PEERS_ROUNDS:-5}" \
  -empty-size "${PEERS_EMPTY:-10737418240}" \
  -files "${PEERS_FILES:-20000}" \
  -snapshots "${PEERS_SNAPSHOTS:-200}" \
  -bytes "${PEERS_BYTES:-1073741824}" \
  -check-files "${PEERS_CHECK_FILES:-200000}" \
  -check-snapshots "${PEERS_CHECK_SNAPSHOTS:-100}" \
  -send-files "${PEERS_SEND_FILES:-0}" \
  -loop-direct-io "${PEERS_LOOP_DIRECT_IO:-off}" \
  -only "${PEERS_ONLY:-}"
