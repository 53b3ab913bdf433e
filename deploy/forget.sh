#!/bin/sh
# Deletes what `make run` keeps between runs: data, keys, tokens, logs.
set -eu
cd "$(dirname "$0")/.."

servers=.posthorn/servers
# Where the data really is when the servers' user cannot reach this folder: see
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
