#!/usr/bin/env bash
# `make compose-test`: runs docker-compose.yml with podman, and shows that it does what it says.
#
# Where images can't be pulled, it makes those that the file names of Debian's packages
# (images.sh). The image of Posthorn gets the binaries that cargo built in target/debug; with COMPILE=yes
# its Dockerfile compiles them: in the image rust:1.92-bookworm if that is here, otherwise with this
# machine's compiler. Grafana isn't started: no package has it.
#
# Needs root, Debian, and the packages that `deploy/deps.sh containers` installs. Where it can't run it
# says so and succeeds.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=compose-test
# shellcheck source=tests/compose/images.sh
. tests/compose/images.sh
project=posthorn-test
# Beside a `make run` on the usual ports.
export AMQP_PORT=25672 API_PORT=28080 PROMETHEUS_PORT=29090 GRAFANA_PORT=23000
export POSTHORN_IMAGE=localhost/posthorn:one

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

prepare
: >"$state/compose.log"

down() {
    # Those that were scaled up, podman-compose forgets.
    podman ps --all -q --filter "label=io.podman.compose.project=$project" |
        xargs --no-run-if-empty podman rm --force --time 5 >/dev/null 2>&1 || true
    compose down --volumes --timeout 5 || true
    [ -z "${1:-}" ] || return 0
    rm -f "$state/env"
}
looking=
ended() {
    local status=$?
    [ -z "$looking" ] || kill $looking || true
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

make_posthorn() {
    make_base
    put_binaries
    build localhost/posthorn:one
    # The next version: another image of the same.
    build localhost/posthorn:two --label version=two
    rm -rf target/image
    say "the image has $(podman image inspect --format '{{.Size}}' localhost/posthorn:one) bytes," \
        "runs as $(podman image inspect --format '{{.User}}' localhost/posthorn:one)," \
        "is of version $(podman image inspect \
            --format '{{index .Labels "org.opencontainers.image.version"}}' localhost/posthorn:one)"
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
has_orders() { [ "$(orders | wc -l)" -ge "$1" ]; }
more_orders() { # NUMBER WHAT
    local now
    now=$(orders | wc -l)
    eventually 60 "$2: $1 more verified deliveries" has_orders $((now + $1))
}
watches() { # QUERY VALUE
    curl -fsS --get --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" | grep -q "\"$2\"\]"
}
sql() { podman exec "$(containers postgres)" psql --username=posthorn --dbname=posthorn --no-psqlrc -At --command="$1"; }
process_of() { podman inspect --format '{{.State.Pid}}' "$1"; }

# Replaces the containers of a service, one after the other, by ones of the image that is named now.
# podman-compose's --force-recreate would stop all of them first.
replace() { # SERVICE NUMBER
    local service=$1 number=$2 one
    for one in $(podman ps --format '{{.Names}}' --filter "label=io.podman.compose.project=$project" \
        --filter "label=com.docker.compose.service=$service" | sort); do
        podman stop --time 70 "$one" >/dev/null
        [ "$(podman inspect --format '{{.State.ExitCode}}' "$one")" = 0 ] || fail "$one didn't stop in order"
        podman rm "$one" >/dev/null
        compose up --detach --no-build --no-deps --no-recreate --scale "$service=$number" "$service"
        eventually 90 "$one is of the next version, and $number of $service are healthy" healthy "$service" "$number"
    done
}

# What can be seen from outside while containers are replaced: the time, how many dispatchers run, how
# many orders have arrived.
look_on() {
    while :; do
        echo "$SECONDS $(containers dispatcher | wc -w) $(orders | wc -l)" || true
        sleep 1
    done >"$state/seen"
}
# SECONDS: the longest time without a new delivery.
nobody_noticed() {
    awk -v longest="$1" '
        NR == 1 { since = $1; orders = $3 }
        $2 < 3 { print "only " $2 " dispatchers ran"; bad = 1 }
        $3 > orders { orders = $3; since = $1 }
        $1 - since > longest { print "no delivery for " $1 - since " s"; bad = 1 }
        $1 - since > gap { gap = $1 - since }
        END {
            print NR " looks; the longest time between new deliveries was " gap + 0 " s"
            exit bad || NR < 5
        }' "$state/seen"
}

begun=$SECONDS
make_servers
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

# The doctor finds RabbitMQ's management API. Other lines are WRONG here: there is no TLS.
doctor_sees() {
    { podman exec "$(containers api)" posthorn-ingest doctor || true; } | grep "^ok *RabbitMQ's version: "
}
eventually 60 "the doctor knows RabbitMQ's version" doctor_sees

# A dispatcher is killed while it waits for answers: the receiver is stopped meanwhile. (`podman kill`
# would count as a wish of the operator's, and the container would stay as it is.)
victim=${project}_dispatcher_2
address=$(podman inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$victim")
killed=$(process_of "$victim")
receiving=$(process_of "$(containers receiver)")
# Without -q: grep would end before curl has written everything, and curl would fail.
waits() { curl -fsS "http://$address:8081/metrics" | grep '^posthorn_attempts_in_flight [1-9]'; }
kill -STOP "$receiving"
eventually 20 "$victim has requests under way that nobody answers" waits
kill -KILL "$killed"
newest=$(sql "SELECT id FROM deliveries ORDER BY id DESC LIMIT 1")
kill -CONT "$receiving"
restarted() {
    [ "$(podman inspect --format '{{.State.Running}}' "$victim")" = true ] && [ "$(process_of "$victim")" != "$killed" ]
}
eventually 60 "its container was started again" restarted
eventually 60 "four dispatchers are healthy again" healthy dispatcher 4
of_before_are_finished() { [ "$(sql "SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL AND id <= '$newest'")" = 0 ]; }
eventually 120 "all deliveries of before the kill are finished" of_before_are_finished
more_orders 20 "one dispatcher was killed"

# A rolling upgrade: one container after the other, with events arriving all the time.
compose up --detach --no-build --no-deps --no-recreate --scale intake=2 intake
eventually 60 "two intakes are healthy" healthy intake 2
export POSTHORN_IMAGE=localhost/posthorn:two
look_on &
looking=$!
replace dispatcher 4
replace intake 2
kill $looking
wait $looking || true
looking=
nobody_noticed 10 || fail "the upgrade was noticed"
# It has a port of this machine, so there is one of it. Meanwhile the demo tries again.
replace api 1
for container in $(containers dispatcher) $(containers intake) $(containers api); do
    [ "$(podman inspect --format '{{.Config.Labels.version}}' "$container")" = two ] || fail "$container is of the old version"
done
more_orders 20 "after the upgrade"

# The container stays, and so does its log.
demo=$(containers demo)
compose stop demo
podman logs "$demo" 2>&1 | sed -n 's/^published //p' | sort -u >"$state/published"
missing() { comm -23 "$state/published" <(orders); }
all_there() { [ -z "$(missing)" ]; }
eventually 120 "all of the $(wc -l <"$state/published") orders that were published have arrived" all_there
all_delivered() { [ "$(sql "SELECT count(*) FROM deliveries WHERE state <> 'delivered'")" = 0 ]; }
eventually 60 "every delivery is recorded as delivered" all_delivered
# More than once: podman's DNS, where it has no other server to ask, answers now and then late.
eventually 60 "posthorn-ingest audit finds nothing unaccounted for" \
    podman exec "$(containers api)" posthorn-ingest audit --grace 0

stop_all() { # SECONDS SERVICE…: all containers at the same time, those that were scaled up, too.
    local grace=$1 begun=$SECONDS found=() service
    shift
    for service in "$@"; do
        # shellcheck disable=SC2207
        found+=($(containers "$service"))
    done
    podman stop --time "$grace" "${found[@]}" >/dev/null
    for container in "${found[@]}"; do
        code=$(podman inspect --format '{{.State.ExitCode}}' "$container")
        [ "$code" = 0 ] || fail "$(podman inspect --format '{{.Name}}' "$container") ended with $code"
    done
    # Whoever is still there after the grace is killed, and ends with 137.
    say "$*: ${#found[@]} containers stopped in order, in $((SECONDS - begun)) s"
}
# The graces of docker-compose.yml. A dispatcher needs no more than 45 s.
stop_all 45 dispatcher
stop_all 70 intake api
postgres=$(containers postgres)
stop_all 60 rabbitmq
stop_all 60 postgres
podman logs "$postgres" 2>&1 | grep "database system is shut down" >/dev/null || fail "PostgreSQL wasn't shut down"
down
trap - EXIT
say "passed in $((SECONDS - begun)) s"
