#!/bin/sh
# Installs packages that Posthorn's commands need and that this machine lacks.
#
#   deploy/deps.sh servers     what `make run` needs: RabbitMQ, PostgreSQL, curl
#   deploy/deps.sh tests       the same, libfaketime, Prometheus and its exporters, and the tests' Python and
#                              npm packages
#   deploy/deps.sh containers  that, and what `make compose-test` needs
#
# Prints what it installs and why before it does. When nothing is missing, it ends
# at once and prints nothing. It starts no system service: Posthorn runs its own
# RabbitMQ and PostgreSQL from the installed binaries.
set -eu
cd "$(dirname "$0")/.."

# The oldest PostgreSQL with the features that the migrations use.
POSTGRES=15
VENV=.posthorn/venv
# standardwebhooks: the library that receivers use; the tests verify signatures with it.
# schemathesis: sends generated requests to the API. pika, amqplib: the AMQP
# clients of examples/. kubernetes-validate: Kubernetes's schemas, for deploy/k8s.
# openapi-python-client: generates a client from the API's description. openapi-generator-cli: the
# same, for Go and Java; it is a program in Java.
PACKAGES="standardwebhooks==1.1.0 schemathesis==4.32.5 pika==1.4.4 kubernetes-validate==1.37.0 openapi-python-client==0.29.1 \
openapi-generator-cli==7.26.0"
# Only with `containers`: runs docker-compose.yml.
COMPOSE_PACKAGE="podman-compose==1.6.0"
NODE_MODULES=.posthorn/node_modules
# @grafana/schema, typescript: hold the dashboards to Grafana's own types. axe-core: rules for accessible pages.
# openapi-typescript, openapi-fetch: the same as openapi-python-client. @hey-api/openapi-ts: another generator for
# TypeScript. @redocly/cli, @stoplight/spectral-cli: rules for such descriptions.
NODE_PACKAGES="standardwebhooks@1.1.1 amqplib@2.3.1 @grafana/schema@11.6.0 typescript@5.9.3 @types/node@20.19.0 \
openapi-typescript@7.13.0 openapi-fetch@0.17.0 @hey-api/openapi-ts@0.99.0 @redocly/cli@2.77.0 \
@stoplight/spectral-cli@6.16.3 axe-core@4.14.1"
POLICY=/usr/sbin/policy-rc.d

say() { printf 'deps: %s\n' "$*"; }
fail() {
    printf 'deps: %s\n' "$*" >&2
    exit 1
}

has_postgres() {
    for initdb in /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb; do
        [ -x "$initdb" ] || continue
        version=$(printf '%s\n' "$initdb" | sed 's,^/usr/[^0-9]*\([0-9]*\)/.*,\1,')
        [ "$version" -ge "$POSTGRES" ] && return 0
    done
    return 1
}

has_rabbitmq() {
    for server in /usr/lib/rabbitmq/bin/rabbitmq-server \
        /usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server /opt/rabbitmq/sbin/rabbitmq-server; do
        [ -x "$server" ] && return 0
    done
    return 1
}

# Prints a Python that can make virtual environments. Debian's can't without python3-venv.
python() {
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

has_packages() {
    # The interpreter is a symbolic link. An upgrade of Python breaks it.
    [ -x "$VENV/bin/python" ] || return 1
    for package in $PACKAGES; do
        # Where it is installed, a name has underscores.
        name=$(printf '%s' "${package%==*}" | tr - _)
        set -- "$VENV"/lib/python3*/site-packages/"$name-${package#*==}".dist-info
        [ -d "$1" ] || return 1
    done
}

has_node_packages() {
    for package in $NODE_PACKAGES; do
        grep -qs "\"version\": \"${package##*@}\"" "$NODE_MODULES/${package%@*}/package.json" || return 1
    done
}

has_faketime() {
    for library in /usr/lib/*/faketime/libfaketimeMT.so.1; do
        [ -f "$library" ] && return 0
    done
    return 1
}

missing=
policy_is_ours=
need() { # PACKAGE WHY
    [ -n "$missing" ] || say "this machine lacks:"
    say "  $1: $2"
    missing="$missing $1"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Debian packages start their services when they are installed. A policy-rc.d
# prevents that. If one exists already, it is the administrator's and stays.
forbid_starting() {
    [ -e "$POLICY" ] && return 0
    policy_is_ours=yes
    trap allow_starting EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
    printf '#!/bin/sh\n# Posthorn, while it installs packages: start nothing.\nexit 101\n' |
        as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
}

allow_starting() {
    [ -n "$policy_is_ours" ] || return 0
    policy_is_ours=
    as_root rm -f "$POLICY"
    trap - EXIT INT HUP TERM
}

install_missing() {
    command -v apt-get >/dev/null ||
        fail "this machine has no apt-get: install$missing in another way, then try again"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        fail "not root, and there is no sudo: as root, run 'apt-get install$missing'"
    say "installing$missing with apt-get; no service of theirs is started"
    fresh=
    for unit in rabbitmq-server postgresql prometheus prometheus-postgres-exporter prometheus-node-exporter \
        prometheus-blackbox-exporter; do
        systemctl is-enabled --quiet "$unit" 2>/dev/null || fresh="$fresh $unit"
    done
    forbid_starting
    as_root apt-get update -q
    # Unquoted on purpose: a list of packages.
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $missing </dev/null
    allow_starting
    # The packages also enable their services. Disable them, so that the next boot
    # doesn't start them either.
    for unit in $fresh; do
        as_root systemctl disable --quiet "$unit" 2>/dev/null || true
    done
}

what=${1:-tests}
containers=
case $what in
servers | tests) ;;
containers)
    containers=yes
    what=tests
    PACKAGES="$PACKAGES $COMPOSE_PACKAGE"
    ;;
*) fail "usage: deploy/deps.sh [servers|tests|containers]" ;;
esac

has_rabbitmq || need rabbitmq-server "moves events and jobs; a private node is run from its binaries"
has_postgres || need postgresql "keeps events, deliveries and attempts; also run privately"
command -v curl >/dev/null || need curl "the commands of README.md"
if [ "$what" = tests ] && ! has_packages && ! python >/dev/null; then
    need python3-venv "the tests use Python packages: $PACKAGES"
fi
if [ "$what" = tests ] && ! has_node_packages; then
    command -v node >/dev/null || need nodejs "the tests verify signatures as receivers written in JavaScript do"
    command -v npm >/dev/null || need npm "installs JavaScript packages for the tests: $NODE_PACKAGES"
fi
if [ "$what" = tests ] && ! has_faketime; then
    need libfaketime "the tests run processes whose clocks are wrong"
fi
if [ "$what" = tests ]; then
    command -v go >/dev/null || need golang-go "the tests run the examples in Go"
    command -v javac >/dev/null || need default-jdk-headless "the same, in Java"
    [ -d /usr/share/gocode/src/gopkg.in/validator.v2 ] ||
        need golang-gopkg-validator.v2-dev "generated Go clients import it"
    [ -d /usr/share/gocode/src/github.com/rabbitmq/amqp091-go ] ||
        need golang-github-rabbitmq-amqp091-go-dev "the AMQP example in Go imports it"
    [ -f /usr/share/java/amqp-client.jar ] || need librabbitmq-client-java "the AMQP example in Java imports it"
    [ -f /usr/share/java/httpclient5.jar ] || need libhttpclient5-java "generated Java clients import it"
    [ -f /usr/share/java/jakarta-annotation-api.jar ] || need libjakarta-annotation-api-java "the same"
    command -v chromium >/dev/null || need chromium "the tests look at the console in a real browser"
    command -v chromium-headless-shell >/dev/null || need chromium-headless-shell "the same, with less processor time"
    command -v chromedriver >/dev/null || need chromium-driver "the same"
    command -v promtool >/dev/null || need prometheus "checks the alert rules; the tests run a private one"
    command -v prometheus-postgres-exporter >/dev/null ||
        need prometheus-postgres-exporter "the tests run the dashboards' queries"
    command -v prometheus-node-exporter >/dev/null || need prometheus-node-exporter "the same, of disks"
    command -v prometheus-blackbox-exporter >/dev/null || need prometheus-blackbox-exporter "the same, of certificates"
fi
if [ -n "$containers" ]; then
    for package in podman buildah runc debootstrap iptables; do
        command -v $package >/dev/null || need $package "runs docker-compose.yml"
    done
    # Debian's podman looks for these two here.
    [ -x /usr/lib/podman/netavark ] || need netavark "networks of containers"
    [ -x /usr/lib/podman/aardvark-dns ] || need aardvark-dns "names of containers"
fi
[ -z "$missing" ] || install_missing

has_postgres || fail "PostgreSQL $POSTGRES or later is needed, and this system packages an older one:" \
    "see https://www.postgresql.org/download/linux/"
has_rabbitmq || fail "RabbitMQ's server is not where Debian puts it (/usr/lib/rabbitmq/bin)"

if [ "$what" = tests ] && ! has_packages; then
    say "installing $PACKAGES from PyPI into $VENV: the tests use them"
    mkdir -p "$(dirname "$VENV")"
    "$(python)" -m venv --clear "$VENV"
    # Unquoted on purpose: a list of packages.
    # shellcheck disable=SC2086
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check $PACKAGES
fi

if [ "$what" = tests ] && ! has_node_packages; then
    say "installing $NODE_PACKAGES from npm into $NODE_MODULES: the tests use them"
    # Unquoted on purpose: a list of packages.
    # shellcheck disable=SC2086
    npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix "$(dirname "$NODE_MODULES")" \
        $NODE_PACKAGES
fi
