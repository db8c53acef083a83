#!/usr/bin/env bash
# Installs what the test suite's oracles need and Go does not bring: btrfs-progs, promtool, the attr and acl
# tools, and a C compiler for the race detector. Only what is missing is installed, and only where apt-get is
# there and we are root or may become root without a password; otherwise it says what is missing and leaves
# the decision to the tests (skipped locally, a failure where CI=true).
set -euo pipefail

# The oldest btrfs-progs whose checker knows everything that we write, so that older ones are worth replacing.
readonly want_progs=6.14

say() { printf 'deps: %s\n' "$*"; }

progs_version() {
  command -v btrfs >/dev/null 2>&1 || { echo 0; return; }
  btrfs --version 2>/dev/null | sed -n 's/^btrfs-progs v\{0,1\}\([0-9][0-9.]*\).*/\1/p' | head -n 1
}

progs_recent() {
  local have
  have=$(progs_version)
  [ "$(printf '%s\n%s\n' "$want_progs" "${have:-0}" | sort -V | head -n 1)" = "$want_progs" ]
}

# Distribution tools in sbin are not on every user's PATH.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("${@:2}"); }
need promtool prometheus
need setfattr attr
need setfacl acl
need losetup mount util-linux
need gcc gcc libc6-dev
progs_recent && progs_old=no || progs_old=yes

if [ ${#packages[@]} -eq 0 ] && [ $progs_old = no ]; then
  exit 0
fi
missing="${packages[*]:-}"
[ $progs_old = no ] || missing="$missing btrfs-progs(>= $want_progs, here: $(progs_version))"

if ! command -v apt-get >/dev/null 2>&1; then
  say "no apt-get here; please install:$missing"
  exit 0
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    say "not root and no sudo without a password; please install:$missing"
    exit 0
  fi
  sudo=(sudo -n)
fi
say "installing:$missing"

scratch=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
made_policy=no
cleanup() {
  [ $made_policy = no ] || "${sudo[@]}" rm -f "$policy"
  rm -rf "$scratch"
}
trap cleanup EXIT

# promtool comes in the package of the Prometheus server. We want the tool, not a server that listens: the
# policy script forbids maintainer scripts to start services while we install, and what systemd would start
# at the next boot is disabled again, unless the machine had a server before.
had_server=no
command -v prometheus >/dev/null 2>&1 && had_server=yes
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod 755 "$policy"
  made_policy=yes
fi

apt() {
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

apt update >"$scratch/log" 2>&1 || { cat "$scratch/log"; say "apt-get update failed; going on with the lists we have"; }

if [ ${#packages[@]} -gt 0 ]; then
  apt install --no-install-recommends "${packages[@]}" >"$scratch/log" 2>&1 ||
    { cat "$scratch/log"; say "could not install: ${packages[*]}"; }
  if [ $had_server = no ] && [ -d /run/systemd/system ] && [[ " ${packages[*]} " == *" prometheus "* ]]; then
    "${sudo[@]}" systemctl disable --now prometheus.service >/dev/null 2>&1 || true
  fi
fi

# From the release's backports if it has them (Debian), through a sources list of our own, so that the
# machine's configuration stays as it was.
install_backport() {
  local codename id uri keyring
  id=$(. /etc/os-release && echo "${ID:-}")
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ "$id" = debian ] && [ -n "$codename" ] || return 1
  uri=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $codename" 2>/dev/null | head -n 1 || true)
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -r "$keyring" ] || return 1
  chmod 755 "$scratch"
  {
    cat /etc/apt/sources.list 2>/dev/null || true
    printf '\ndeb [signed-by=%s] %s %s-backports main\n' "$keyring" "${uri:-http://deb.debian.org/debian/}" "$codename"
  } >"$scratch/sources.list"
  chmod 644 "$scratch/sources.list"
  apt -o Dir::Etc::sourcelist="$scratch/sources.list" update >"$scratch/log" 2>&1 || { cat "$scratch/log"; return 1; }
  apt -o Dir::Etc::sourcelist="$scratch/sources.list" install --no-install-recommends \
    -t "$codename-backports" btrfs-progs >"$scratch/log" 2>&1 || { cat "$scratch/log"; return 1; }
}

if [ $progs_old = yes ]; then
  # The release's own first: on newer releases it is recent enough, and it is what we fall back to.
  apt install --no-install-recommends btrfs-progs >"$scratch/log" 2>&1 || cat "$scratch/log"
  if ! progs_recent; then
    install_backport || true
  fi
  if progs_recent; then
    say "btrfs-progs $(progs_version)"
  else
    say "WARNING: btrfs-progs $(progs_version) is older than $want_progs and nothing newer was found; going on with it"
  fi
fi
