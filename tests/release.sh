#!/usr/bin/env bash
# The binaries of another version, for `make upgrade-test`: prints the folder that has them.
#
#   tests/release.sh            of the last tag before this commit
#   tests/release.sh e94b7fd    of a tag or a commit
#   tests/release.sh FOLDER     of a folder with posthorn-ingest and posthorn-dispatcher
#
# It builds them in a worktree of their own (five to ten minutes on two cores), once: they stay in
# .posthorn/releases, which `make clean` deletes.
set -euo pipefail
fail() {
    printf 'release: %s\n' "$*" >&2
    exit 1
}

wanted=${1:-}
if [ -n "$wanted" ] && [ -d "$wanted" ]; then
    for name in posthorn-ingest posthorn-dispatcher; do
        [ -x "$wanted/$name" ] || fail "there is no $name in $wanted"
    done
    realpath "$wanted"
    exit
fi
cd "$(dirname "$0")/.."
if [ -z "$wanted" ]; then
    wanted=$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null) ||
        fail "no commit before this one has a tag: name a version, as in make upgrade-test OLD=e94b7fd"
fi
commit=$(git rev-parse --verify --quiet "$wanted^{commit}") ||
    fail "$wanted is neither a folder with binaries nor a commit of this repository"
releases=$PWD/.posthorn/releases
folder=$releases/$commit
if [ ! -e "$folder/complete" ]; then
    printf 'release: building %s in a worktree\n' "$wanted" >&2
    tree=$releases/tree
    remove() { git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"; }
    mkdir -p "$folder"
    remove
    git worktree prune
    git worktree add --quiet --detach "$tree" "$commit" >&2
    trap remove EXIT
    # Its dependencies are built apart from this version's, and stay for the next release.
    (
        cd "$tree"
        CARGO_TARGET_DIR=$releases/target ${CARGO:-cargo} build --locked --workspace \
            --bin posthorn-ingest --bin posthorn-dispatcher >&2
    )
    cp "$releases"/target/debug/posthorn-{ingest,dispatcher} "$folder/"
    touch "$folder/complete"
fi
printf '%s\n' "$folder"
