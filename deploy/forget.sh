#!/bin/sh
# Deletes everything that `make run` keeps between runs: data, keys, tokens, logs.
set -eu
cd "$(dirname "$0")/.."

servers=.posthorn/servers
# If the servers' user can't reach this folder, the data is in another one: see
# `tests/src/pair/home.rs`.
real=$(readlink "$servers/servers-are-here" 2>/dev/null || echo "$servers")
if [ -e "$real/lock" ] && ! flock --nonblock "$real/lock" true; then
    echo "make run is still running here: stop it first" >&2
    exit 1
fi
case $real in
"$servers" | /var/tmp/posthorn-*) rm -rf "$real" ;;
esac
rm -rf .posthorn
