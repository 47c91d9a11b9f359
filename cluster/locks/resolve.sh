#!/usr/bin/env bash
# Writes cpu.txt and gpu.txt: every package of the environment at one version. `make locks` runs it.
#
#   pyproject.toml (dependencies, dev, and cpu or gpu) + overrides -> uv pip compile -> a header and `name==version` lines
#
# Versions of the existing locks are kept as long as they fit. UPGRADE=1 selects the newest that pyproject.toml permits:
# then run the tests again, on both kinds of machine. The GPU lock uses the CPU lock's versions wherever possible, so
# that a model trained on one is served on the other by the same code; tests/cluster/test_locks.py names the exceptions.
set -euo pipefail

locks=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$locks/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

find_uv() {
    if command -v uv; then return; fi
    "${PYTHON:-python3}" -m venv "$work/uv"
    "$work/uv/bin/pip" install --quiet --quiet uv
    echo "$work/uv/bin/uv"
}

# resolve KIND OVERRIDES...: reads the preferred versions from $work/KIND.txt, writes the resolved ones there.
# Wheels only, for glibc 2.31 (Debian 11, Ubuntu 20.04) and newer: an installation compiles only DeepSpeed, which is
# published as source and is plain Python until an op is used.
resolve() {
    local kind=$1 file overrides=()
    shift
    for file in "$@"; do overrides+=(--override "$locks/$file"); done
    "$uv" pip compile "$root/pyproject.toml" --extra "$kind" --extra dev "${overrides[@]}" \
        --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
        --only-binary :all: --no-binary deepspeed \
        --no-header --no-annotate --quiet --output-file "$work/$kind.txt" > "$work/log" 2>&1 ||
        { cat "$work/log" >&2; exit 1; }
}

pins() { if [ -e "$1" ]; then grep '==' "$1" || true; fi; }

# write KIND ABOUT...: writes the header and the pins, without uv's comments, which name paths and indexes.
write() {
    local kind=$1
    shift
    {
        echo "# The whole $kind environment of Rayse, for Linux x86_64 and Python 3.11. Made by \`make locks\`: don't edit it."
        echo "# Resolved from pyproject.toml (extras $kind and dev) with the versions in $*."
        echo "# Install: pip install --no-deps -r cluster/locks/$kind.txt   (make env does; LOCK=gpu chooses the other lock)"
        echo "# --no-deps, because some packages declare versions that exclude each other: see overrides.txt."
        if [ "$kind" = cpu ]; then
            echo "# torch is meant as PyTorch's CPU build (from PyTorch's CPU index; the general index has the CUDA build)."
        fi
        grep '==' "$work/$kind.txt" | LC_ALL=C sort -t = -k 1,1
    } > "$locks/$kind.txt"
    echo "cluster/locks/$kind.txt: $(grep -c '^[^#]' "$locks/$kind.txt") packages"
}

uv=$(find_uv)

: > "$work/cpu.txt"
if [ -z "${UPGRADE:-}" ]; then pins "$locks/cpu.txt" > "$work/cpu.txt"; fi
resolve cpu overrides.txt overrides-cpu.txt
write cpu overrides.txt and overrides-cpu.txt

# the CPU lock's versions first, then the existing ones of packages that only the GPU lock has
{
    pins "$locks/cpu.txt"
    if [ -z "${UPGRADE:-}" ]; then pins "$locks/gpu.txt"; fi
} | awk -F== '!seen[$1]++' > "$work/gpu.txt"
resolve gpu overrides.txt
write gpu overrides.txt
