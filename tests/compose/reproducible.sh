#!/usr/bin/env bash
# Builds the image twice, without a cache, and says whether both are the same to the last byte.
#
#   make compose-test && tests/compose/reproducible.sh    of the binaries in target/debug: a minute
#   COMPILE=yes tests/compose/reproducible.sh             compiles twice: twenty minutes on two cores
#
# Two builds have the same id if their layers, labels and times are the same. Needs what run.sh needs.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=reproducible
# shellcheck source=tests/compose/images.sh
. tests/compose/images.sh
prepare
make_base
put_binaries
for number in 1 2; do
    build localhost/posthorn:reproduced-$number --no-cache
    # The time of the build must not matter.
    sleep 2
done
rm -rf target/image

# Of each file: its hash, mode and time.
contents() {
    local tree=$state/contents
    rm -rf "$tree" && mkdir -p "$tree"
    local container
    container=$(podman create "$1")
    podman export "$container" | tar -C "$tree" -x
    podman rm "$container" >/dev/null
    (cd "$tree" && find . -type f -exec sha256sum {} + && find . -printf '%p %m %T@\n') | sort
    rm -rf "$tree"
}
id_of() { podman image inspect --format '{{.Id}}' "localhost/posthorn:reproduced-$1"; }
first=$(id_of 1) second=$(id_of 2)
status=0
if [ "$first" = "$second" ]; then
    say "both builds are the same image: $first"
else
    status=1
    say "FAILED: the builds differ: $first and $second. What is different in them:"
    diff <(contents localhost/posthorn:reproduced-1) <(contents localhost/posthorn:reproduced-2) || true
    diff <(podman image inspect localhost/posthorn:reproduced-1) <(podman image inspect localhost/posthorn:reproduced-2) || true
fi
podman rmi localhost/posthorn:reproduced-1 localhost/posthorn:reproduced-2 >/dev/null
exit $status
