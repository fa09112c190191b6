#!/usr/bin/env bash
# Runs every fuzz target for some seconds (30 by default) with the toolchain of the workspace: `fuzz/run.sh 60`.
# No sanitizer: there is no unsafe code of ours to watch, and panics are found without one.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-30}"
if ! command -v cargo-fuzz >/dev/null; then
    echo "skipped: the fuzz targets need cargo-fuzz (cargo install cargo-fuzz --locked)"
    exit 0
fi
export RUSTC_BOOTSTRAP=1
for target in $(cargo fuzz list --fuzz-dir .); do
    printf '%s: ' "$target"
    log="$(mktemp)"
    if cargo fuzz run --fuzz-dir . --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=4096 >"$log" 2>&1; then
        grep -E '^Done' "$log" || tail -n 1 "$log"
    else
        tail -n 40 "$log"
        exit 1
    fi
    rm -f "$log"
done
