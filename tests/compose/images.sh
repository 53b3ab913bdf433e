# For scripts of this folder, which source it in the repository's folder: podman's settings, and the
# images. Where images can't be pulled, it makes those that the files name of Debian's packages.
# shellcheck shell=bash

state=$PWD/.posthorn/compose
export CONTAINERS_CONF=$state/containers.conf PATH=$PWD/.posthorn/venv/bin:$PATH

say() { printf '%s: %s\n' "$name" "$*"; }
fail() {
    say "FAILED: $*" >&2
    exit 1
}
skip() {
    say "SKIPPED, nothing was tested: $*"
    exit 0
}

prepare() {
    [ "$(id -u)" = 0 ] || skip "not root"
    for program in podman buildah runc debootstrap podman-compose curl; do
        command -v $program >/dev/null || skip "there is no $program: deploy/deps.sh containers installs it"
    done
    mkdir -p "$state"
    cat >"$CONTAINERS_CONF" <<'CONF'
# crun and systemd aren't everywhere; bridge networks want netavark.
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
[containers]
default_ulimits = ["nofile=4096:8192", "nproc=4096:4096"]
CONF
}

root_of() { # SUITE PACKAGES…
    local suite=$1 root=$state/$1
    shift
    say "making a root of Debian $suite with debootstrap: $*"
    rm -rf "$root"
    debootstrap --variant=minbase "$suite" "$root" http://deb.debian.org/debian >"$state/$suite.log" 2>&1 ||
        skip "debootstrap of $suite failed: see $state/$suite.log"
    cp /etc/resolv.conf "$root/etc/"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        apt-get install -y -q --no-install-recommends "$@" >>"$state/$suite.log" 2>&1 </dev/null ||
        skip "installing $* in $root failed: see $state/$suite.log"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root/usr/sbin/policy-rc.d"
}
import() { # NAME SUITE
    tar -C "$state/$2" -c . | podman import -q - "$1" >/dev/null
    rm -rf "${state:?}/$2"
}
image_of() { # NAME SUITE PACKAGES…
    podman image exists "$1" && return 0
    root_of "${@:2}"
    import "$1" "$2"
}

# The base of deploy/Dockerfile's stages, in `base`.
make_base() {
    if [ "${COMPILE:-}" != yes ]; then
        base=localhost/posthorn-binutils
        image_of $base bookworm binutils ca-certificates
        return
    fi
    base=docker.io/library/rust:1.92-bookworm
    podman image exists $base && return 0
    local toolchain
    toolchain=$(rustc --print sysroot)
    base=localhost/posthorn-rust
    say "COMPILE=yes: the image compiles with this machine's $(rustc --version), NOT with the 1.92 that deploy/Dockerfile names"
    podman image exists $base && return 0
    root_of bookworm binutils ca-certificates gcc libc6-dev
    mkdir -p "$state/bookworm/usr/local"
    cp -a "$toolchain/bin" "$toolchain/lib" "$state/bookworm/usr/local/"
    import $base bookworm
}

# Builds Posthorn's image. Needs make_base.
build() { # TAG OPTIONS…
    local tag=$1 from=prebuilt
    shift
    if [ "${COMPILE:-}" = yes ]; then
        from=compiled
        # What cargo has downloaded. It downloads what is missing.
        set -- --volume "${CARGO_HOME:-$HOME/.cargo}/registry:/usr/local/cargo/registry" "$@"
    fi
    BUILDER=podman deploy/image.sh --quiet --build-arg BASE="$base" --build-arg BINARIES=$from "$@" --tag "$tag" >/dev/null
}
# The binaries for `build`, unless it compiles them.
put_binaries() {
    [ "${COMPILE:-}" = yes ] && return 0
    mkdir -p target/image
    cp -p "${TARGET:-target}"/debug/posthorn-{ingest,dispatcher} target/image/
}

# Whether an image is one of those below, which follow their Containerfile.
is_ours() { [ "$(podman image inspect --format '{{index .Labels "posthorn.stand-in"}}' "$1" 2>/dev/null)" = yes ]; }
make_servers() {
    image_of localhost/posthorn-servers trixie rabbitmq-server postgresql-17 \
        prometheus prometheus-node-exporter prometheus-postgres-exporter python3
    local target image
    while read -r target image; do
        if podman image exists "$image" && ! is_ours "$image"; then continue; fi
        podman build -q --target "$target" --label posthorn.stand-in=yes --tag "$image" \
            --file tests/compose/Containerfile tests/compose >/dev/null
    done <<'IMAGES'
postgres docker.io/library/postgres:17
rabbitmq docker.io/library/rabbitmq:4.0-management
python docker.io/library/python:3.13-slim
prometheus docker.io/prom/prometheus:v2.55.1
node-exporter quay.io/prometheus/node-exporter:v1.8.2
postgres-exporter quay.io/prometheuscommunity/postgres-exporter:v0.16.0
IMAGES
}
