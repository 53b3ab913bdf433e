#!/usr/bin/env bash
# `make test SERVERS=trixie`: runs a command on RabbitMQ 4.0 and PostgreSQL 17.
#
#   tests/trixie.sh COMMAND [ARGUMENT …]
#
# The two come from Debian 13 ("trixie"), in a root of its own that debootstrap makes once (three
# minutes, 1.5 GB). The command runs inside that root, as root, with this machine's files where they
# are: the harness finds the servers in /usr/lib, and those are trixie's. Nothing is left mounted.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/.posthorn/trixie
log=$PWD/.posthorn/trixie.log
# The servers; what the harness runs (curl, kill and ps of procps, libfaketime); what verifies
# signatures (nodejs, python3); what makes certificates (openssl); what runs the dashboards' queries.
packages="ca-certificates curl iproute2 libfaketime openssl postgresql procps rabbitmq-server nodejs python3 \
prometheus prometheus-postgres-exporter prometheus-node-exporter prometheus-blackbox-exporter"

fail() {
    tail -3 "$log"
    echo "trixie: $1: $log has the rest"
    exit 1
}
[ "$(id -u)" = 0 ] || { echo "trixie: must be run as root"; exit 1; }
command -v debootstrap >/dev/null || { echo "trixie: debootstrap is missing: deploy/deps.sh containers installs it"; exit 1; }
mkdir -p "$PWD/.posthorn"
if [ ! -e "$root/base" ]; then
    echo "trixie: making $root"
    rm -rf "$root"
    debootstrap --variant=minbase trixie "$root" http://deb.debian.org/debian >"$log" 2>&1 || fail "debootstrap failed"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    touch "$root/base"
fi
if [ "$(cat "$root/complete" 2>/dev/null)" != "$packages" ]; then
    echo "trixie: installing $packages"
    cp /etc/resolv.conf "$root/etc/"
    # Unquoted on purpose: a list of packages.
    # shellcheck disable=SC2086
    chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c '
        apt-get update -q && apt-get install -y -q --no-install-recommends "$@"
    ' sh $packages >>"$log" 2>&1 </dev/null || fail "installing packages failed"
    echo "$packages" >"$root/complete"
fi

# Whatever cargo and the tests need of this machine. The servers' own folders are not among it.
export ROOT=$root HERE=$PWD
exec unshare --mount --propagation private sh -eu -c '
    keep() { [ ! -d "$1" ] || { mkdir -p "$ROOT$1"; mount --rbind "$1" "$ROOT$1"; }; }
    for folder in /proc /sys /dev /tmp /var/tmp "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}" /usr/local; do
        keep "$folder"
    done
    # Binaries that were built elsewhere.
    case ${CARGO_TARGET_DIR:-} in "$HERE"/*) ;; /*) keep "$CARGO_TARGET_DIR" ;; esac
    # The root is below this folder, so this folder alone is not bound with what is below it.
    mkdir -p "$ROOT$HERE"
    mount --bind "$HERE" "$ROOT$HERE"
    exec chroot "$ROOT" sh -eu -c '\''cd "$0"; exec "$@"'\'' "$HERE" "$@"
' sh "$@"
