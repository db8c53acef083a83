#!/usr/bin/env bash
# What imgtool does, in a minute and without root: an image is formatted, filled from a real directory tree,
# snapshotted and listed; then the race of Linux commit be6821f82c3c is replayed on it under each reader policy, and
# the cost of the policies is measured.
#
#   DEMO_SOURCE=DIR   what to fill it with; default GOROOT/src
#   DEMO_IMAGE=FILE   keep the image there; default a temporary one
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
image=${DEMO_IMAGE:-$work/demo.img}
source=${DEMO_SOURCE:-$("$go" env GOROOT)/src}

say() { printf '\n== %s\n' "$*"; }
run() {
  printf '$ imgtool %s\n' "$*"
  "$work/imgtool" "$@"
}

"$go" build -buildvcs=false -o "$work/imgtool" ./cmd/imgtool

say "format an image and fill it from $source"
run mkfs -f -L demo --rootdir "$source" "$image"

say "snapshots"
run subvolume create "$image" /project
run put -r "$image" "$source/errors" /project/errors
run subvolume snapshot -r "$image" /project /project-before
run rm -r "$image" /project/errors
run subvolume snapshot "$image" /project /project-after
run subvolume list "$image"
run ls "$image" /project-before
run ls "$image" /project-after
run filesystem usage "$image"

say "the race of Linux commit be6821f82c3c, without the fix and with it"
run bench race --image "$image"

if command -v btrfs >/dev/null 2>&1; then
  say "btrfs check"
  btrfs check --readonly "$image" 2>&1 | grep -v '^\[' || exit 1
fi

say "what one search costs under each policy"
run bench search
