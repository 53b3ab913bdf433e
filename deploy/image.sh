#!/bin/sh
# Builds the image of deploy/Dockerfile, with labels that say which version it is.
#
#   deploy/image.sh --tag registry.example.com/posthorn:0.2.0
#   BUILDER=podman deploy/image.sh --tag posthorn
#
# All arguments go to `docker build`, or to `podman build`. Every time in the image is the time of the
# commit, so the same commit makes the same image (tests/compose/reproducible.sh). With docker, add
# `--output type=image,rewrite-timestamp=true`: without it, the files keep the time of the build.
set -eu
cd "$(dirname "$0")/.."
builder=${BUILDER:-docker}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
revision=unknown epoch=${SOURCE_DATE_EPOCH:-0}
if git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    revision=$(git rev-parse HEAD)
    # What isn't committed is in the image, but in no revision.
    [ -z "$(git status --porcelain)" ] || revision=$revision-dirty
    epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
fi
created=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)

if [ "$builder" = podman ]; then
    set -- --timestamp "$epoch" "$@"
else
    set -- --build-arg SOURCE_DATE_EPOCH="$epoch" "$@"
fi
exec "$builder" build --file deploy/Dockerfile \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" --build-arg CREATED="$created" "$@" .
