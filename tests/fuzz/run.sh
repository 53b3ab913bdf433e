#!/bin/sh
# run.sh BINARY FOLDER SECONDS TARGET…: runs libFuzzer on each target in turn, at low priority.
# New inputs are kept in FOLDER. To keep one for good, copy it into tests/fuzz/corpus.
set -eu
binary=$1 folder=$2 seconds=$3
shift 3
here=$(dirname "$0")
for target; do
	mkdir -p "$folder/$target"
	echo "fuzz: $target, $seconds s"
	POSTHORN_FUZZ_TARGET=$target nice -n 19 "$binary" -max_total_time="$seconds" \
		-timeout=10 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 -verbosity=0 \
		-artifact_prefix="$folder/$target-" "$folder/$target" "$here/corpus/$target"
done
