#!/usr/bin/env bash
# `make test SERVERS=trixie`: runs a command on RabbitMQ 4.0 and PostgreSQL 17.
#
#   tests/trixie.sh COMMAND [ARGUMENT …]
#
# The two come from Debian 13 ("trixie"), in a root of its own that debootstrap makes once (two
# minutes, 900 MB). The command runs inside that root, as root, with this machine's files where they
# are: the harness finds the servers in /usr/lib, and those are trixie's. Nothing is left mounted.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/.posthorn/trixie
log=$PWD/.posthorn/trixie.log

[ "$(id -u)" = 0 ] || { echo "trixie: must be run as root"; exit 1; }
command -v debootstrap >/dev/null || { echo "trixie: debootstrap is missing: deploy/deps.sh containers installs it"; exit 1; }
if [ ! -e "$root/complete" ]; then
    echo "trixie: making $root"
    rm -rf "$root"
    mkdir -p "$PWD/.posthorn"
    debootstrap --variant=minbase trixie "$root" http://deb.debian.org/debian >"$log" 2>&1 || { tail -3 "$log"; exit 1; }
    cp /etc/resolv.conf "$root/etc/"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        apt-get install -y -q --no-install-recommends \
        ca-certificates curl iproute2 libfaketime postgresql procps rabbitmq-server >>"$log" 2>&1 </dev/null ||
        { tail -3 "$log"; exit 1; }
    touch "$root/complete"
fi

# Whatever cargo and the tests need of this machine. The servers' own folders are not among it.
export ROOT=$root HERE=$PWD
exec unshare --mount --propagation private sh -eu -c '
    keep() { [ ! -d "$1" ] || { mkdir -p "$ROOT$1"; mount --rbind "$1" "$ROOT$1"; }; }
    for folder in /proc /sys /dev /tmp /var/tmp "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}" /usr/local; do
        keep "$folder"
    done
    # The root is below this folder, so this folder alone is not bound with what is below it.
    mkdir -p "$ROOT$HERE"
    mount --bind "$HERE" "$ROOT$HERE"
    exec chroot "$ROOT" sh -eu -c '\''cd "$0"; exec "$@"'\'' "$HERE" "$@"
' sh "$@"
