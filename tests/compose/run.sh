#!/usr/bin/env bash
# `make compose-test`: runs docker-compose.yml with podman, and shows that it does what it says.
#
# Where images can't be pulled, it makes those that the file names of Debian's packages
# (debootstrap). The image of Posthorn gets the binaries that cargo built in target/debug; with
# COMPILE=yes its Dockerfile compiles them, which needs the image rust:1.92-bookworm. Grafana isn't
# started: no package has it.
#
# Needs root, Debian, and the packages that `deploy/deps.sh containers` installs. Where it can't run it
# says so and succeeds.
set -euo pipefail
cd "$(dirname "$0")/../.."

state=$PWD/.posthorn/compose
project=posthorn-test
export CONTAINERS_CONF=$state/containers.conf PATH=$PWD/.posthorn/venv/bin:$PATH
# Beside a `make run` on the usual ports.
export AMQP_PORT=25672 API_PORT=28080 PROMETHEUS_PORT=29090 GRAFANA_PORT=23000
export POSTHORN_IMAGE=localhost/posthorn:one

say() { printf 'compose-test: %s\n' "$*"; }
fail() {
    say "FAILED: $*" >&2
    exit 1
}
skip() {
    say "SKIPPED, nothing was tested: $*"
    exit 0
}
compose() { podman-compose -p $project --env-file "$state/env" -f docker-compose.yml "$@" >>"$state/compose.log" 2>&1; }
containers() { podman ps -q --filter "label=io.podman.compose.project=$project" --filter "label=com.docker.compose.service=$1"; }
eventually() { # SECONDS WHAT COMMAND…
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || fail "it never came true that $what"
        sleep 0.5
    done
    say "$what"
}

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
: >"$state/compose.log"
: >"$state/published"

down() {
    # Those that were scaled up, podman-compose forgets.
    podman ps --all -q --filter "label=io.podman.compose.project=$project" |
        xargs --no-run-if-empty podman rm --force --time 5 >/dev/null 2>&1 || true
    compose down --volumes --timeout 5 || true
    [ -z "${1:-}" ] || return 0
    rm -f "$state/env"
}
ended() {
    local status=$?
    if [ $status != 0 ]; then
        tail -20 "$state/compose.log" || true
        podman ps --all --filter "label=io.podman.compose.project=$project" || true
        for container in $(podman ps --all -q --filter "label=io.podman.compose.project=$project"); do
            echo "--- $(podman inspect --format '{{.Name}}' "$container")"
            podman logs --tail 5 "$container" 2>&1 || true
        done
    fi
    down
    exit $status
}

# Images under the names of the compose file: those that are here, or made of Debian's packages.
root_of() { # SUITE PACKAGES…
    local suite=$1 root=$state/$1
    shift
    [ -e "$root/complete" ] && return 0
    say "making a root of Debian $suite with debootstrap"
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
    touch "$root/complete"
}
image_of() { # NAME SUITE PACKAGES…
    local name=$1
    shift
    podman image exists "$name" && return 0
    root_of "$@"
    tar -C "$state/$1" -c . | podman import -q - "$name" >/dev/null
    rm -rf "${state:?}/$1"
}
make_images() {
    image_of docker.io/library/debian:bookworm-slim bookworm ca-certificates
    image_of localhost/posthorn-servers trixie rabbitmq-server postgresql-17 \
        prometheus prometheus-node-exporter prometheus-postgres-exporter python3
    local target image
    while read -r target image; do
        podman image exists "$image" ||
            podman build -q --target "$target" --tag "$image" --file tests/compose/Containerfile tests/compose >/dev/null
    done <<'IMAGES'
postgres docker.io/library/postgres:17
rabbitmq docker.io/library/rabbitmq:4.0
python docker.io/library/python:3.13-slim
prometheus docker.io/prom/prometheus:v2.55.1
node-exporter quay.io/prometheus/node-exporter:v1.8.2
postgres-exporter quay.io/prometheuscommunity/postgres-exporter:v0.16.0
IMAGES
}
make_posthorn() {
    local from=prebuilt
    if [ "${COMPILE:-}" = yes ]; then
        from=compiled
    else
        mkdir -p target/image
        cp "${TARGET:-target}"/debug/posthorn-{ingest,dispatcher} target/image/
    fi
    podman build -q --build-arg BINARIES=$from --file deploy/Dockerfile --tag localhost/posthorn:one . >/dev/null
    # The next version: another image of the same.
    podman build -q --build-arg BINARIES=$from --label version=two --file deploy/Dockerfile \
        --tag localhost/posthorn:two . >/dev/null
    rm -rf target/image
    say "the image has $(podman image inspect --format '{{.Size}}' localhost/posthorn:one) bytes," \
        "runs as $(podman image inspect --format '{{.User}}' localhost/posthorn:one)"
}

healthy() { # SERVICE NUMBER
    local found
    found=$(containers "$1")
    [ "$(wc -w <<<"$found")" = "$2" ] || return 1
    for container in $found; do podman healthcheck run "$container" || return 1; done
}
orders() { # Which orders the receiver has verified, each once.
    podman logs "$(containers receiver)" 2>&1 | sed -n 's/.*"order": "\([^"]*\)".*/\1/p' | sort -u
}
note_published() { # Which orders the demo has published so far; its container may be replaced.
    podman logs "$(containers demo)" 2>&1 | sed -n 's/^published //p' >>"$state/published"
}
has_orders() { [ "$(orders | wc -l)" -ge "$1" ]; }
more_orders() { # NUMBER WHAT
    local now
    now=$(orders | wc -l)
    eventually 60 "$2: $1 more verified deliveries" has_orders $((now + $1))
}
watches() { # QUERY VALUE
    curl -fsS --get --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" | grep -q "\"$2\"\]"
}

begun=$SECONDS
make_images
make_posthorn
trap ended EXIT
down keep
rm -f "$state/env"
deploy/init "$state/env" >/dev/null
# Ten events a second.
echo 'DEMO_EVERY=0.1' >>"$state/env"

# podman has systemd run health checks. Without it nobody does, so services are started in the order
# of the file's conditions, each when what it depends on is healthy.
compose up --detach --no-build rabbitmq postgres receiver
eventually 120 "PostgreSQL is healthy" healthy postgres 1
eventually 120 "RabbitMQ is healthy" healthy rabbitmq 1
compose up --no-build --no-deps migrate
[ "$(podman wait ${project}_migrate_1)" = 0 ] || fail "migrate"
compose up --no-build --no-deps reader
[ "$(podman wait ${project}_reader_1)" = 0 ] || fail "reader"
compose up --detach --no-build --no-deps api intake dispatcher disk postgres-exporter prometheus
eventually 60 "the API is healthy" healthy api 1
eventually 60 "the intake is healthy" healthy intake 1
eventually 60 "two dispatchers are healthy" healthy dispatcher 2
compose up --detach --no-build --no-deps demo
eventually 60 "20 deliveries have arrived, their signatures verified" has_orders 20

[ "$(podman inspect --format '{{.HostConfig.ReadonlyRootfs}}' "$(containers api)")" = true ] ||
    fail "the root file system can be written to"

compose up --detach --no-build --no-deps --scale dispatcher=4 dispatcher
eventually 60 "four dispatchers are healthy" healthy dispatcher 4
eventually 90 "Prometheus watches four dispatchers" watches 'sum(up{job="posthorn-dispatcher"})' 4
eventually 90 "Prometheus watches all servers" watches 'count(up == 1)' 10
eventually 60 "its rules have values" watches 'posthorn:deliveries_unaccounted:max' 0

podman kill --signal KILL ${project}_dispatcher_2 >/dev/null
more_orders 20 "one dispatcher was killed"

# A rolling upgrade: one container after the other, with events arriving all the time.
export POSTHORN_IMAGE=localhost/posthorn:two
for service in dispatcher intake api; do
    # podman-compose replaces what depends on the API with it.
    note_published
    scale=()
    [ $service != dispatcher ] || scale=(--scale dispatcher=4)
    compose up --detach --no-build --no-deps --force-recreate "${scale[@]}" $service
    number=1
    [ $service != dispatcher ] || number=4
    eventually 90 "$service: $number of the next version" healthy $service $number
done
for container in $(containers dispatcher) $(containers intake) $(containers api); do
    [ "$(podman inspect --format '{{.Config.Labels.version}}' "$container")" = two ] || fail "$container is of the old version"
done
more_orders 20 "after the upgrade"

# The container stays, and so does its log.
demo=$(containers demo)
compose stop demo
podman logs "$demo" 2>&1 | sed -n 's/^published //p' >>"$state/published"
missing() { comm -23 <(sort -u "$state/published") <(orders); }
all_there() { [ -z "$(missing)" ]; }
eventually 120 "all of the $(sort -u "$state/published" | wc -l) orders that were published have arrived" all_there
# More than once: podman's DNS, where it has no other server to ask, answers now and then late.
eventually 60 "posthorn-ingest audit finds nothing unaccounted for" \
    podman exec "$(containers api)" posthorn-ingest audit --grace 0

stopping=$SECONDS
compose stop dispatcher intake api
took=$((SECONDS - stopping))
[ $took -le 45 ] || fail "stopping took $took s"
for container in $(podman ps --all -q --filter "label=io.podman.compose.project=$project" --filter status=exited); do
    name=$(podman inspect --format '{{.Name}}' "$container")
    code=$(podman inspect --format '{{.State.ExitCode}}' "$container")
    case $name in
    *_demo_*) ;;
    *) [ "$code" = 0 ] || fail "$name ended with $code" ;;
    esac
done
say "everything of Posthorn stopped in order, in $took s"
down
trap - EXIT
say "passed in $((SECONDS - begun)) s"
