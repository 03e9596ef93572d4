#!/usr/bin/env bash
# Builds llama.cpp's HTTP server, so that the tests can talk to a real engine.
#
# The source package of llama-cpp-python on PyPI carries the whole llama.cpp tree, the server included; one pinned
# version of it becomes one static binary, .engines/llama-server. That takes about ten minutes on two cores, once:
# later runs find the binary and stop at once. A build that was interrupted goes on where it stopped.
#
# Needs python3 with pip, and a C++17 compiler. cmake and ninja come from PyPI when the machine has none.
set -euo pipefail

readonly VERSION=0.3.36
readonly SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly home=$root/.engines
readonly binary=$home/llama-server
readonly log=$home/build.log
readonly source=$home/llama_cpp_python-$VERSION

say() { printf 'build_llama_server: %s\n' "$*"; }
die() {
    say "$*" >&2
    exit 1
}

if [[ -x $binary ]] && "$binary" --version >/dev/null 2>&1; then
    say "$binary is there already"
    exit 0
fi

mkdir -p "$home"
: >"$log"
# Two builds in one folder would spoil each other; mkdir is the lock that every system has.
mkdir "$home/building" 2>/dev/null ||
    die "another build seems to be running; if none is, remove $home/building and run this again"
trap 'rmdir "$home/building"' EXIT

command -v "${CXX:-c++}" >/dev/null ||
    die "no C++ compiler (${CXX:-c++}): install g++ or clang (Debian: apt-get install g++; macOS: xcode-select --install)"

python=$root/.venv/bin/python
[[ -x $python ]] || python=$(command -v python3) || die "no python3: install Python 3.11 or newer"
readonly python
"$python" -m pip --version >/dev/null 2>&1 || die "$python has no pip: run 'make check' once, which makes .venv"

if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
    say "cmake or ninja is missing: taking both from PyPI into .engines/tools-venv"
    "$python" -m venv "$home/tools-venv" >>"$log" 2>&1
    "$home/tools-venv/bin/python" -m pip install --disable-pip-version-check \
        'cmake>=3.25,<5' 'ninja>=1.11,<2' >>"$log" 2>&1 || die "pip could not install them: see $log"
    PATH=$home/tools-venv/bin:$PATH
fi

if [[ ! -f $source/vendor/llama.cpp/CMakeLists.txt ]]; then
    say "fetching the source package (77 MB)"
    # pip asks a source package for its metadata even when it only downloads it, which runs code of the package.
    # Naming the hash in a requirements file makes pip check it before that.
    printf 'llama-cpp-python==%s --hash=sha256:%s\n' "$VERSION" "$SHA256" >"$home/source.txt"
    "$python" -m pip download --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
        --require-hashes --requirement "$home/source.txt" --dest "$home" >>"$log" 2>&1 ||
        die "pip could not fetch llama-cpp-python $VERSION, or its hash is not the pinned one: see $log"
    say "unpacking"
    rm -rf "$source"
    tar -xzf "$source.tar.gz" -C "$home"
    rm "$source.tar.gz" "$home/source.txt"
fi

cores=$(getconf _NPROCESSORS_ONLN)
readonly cores
say "compiling with $cores at a time, at the lowest priority; everything goes to $log"
{
    cmake -S "$source/vendor/llama.cpp" -B "$home/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_OPENSSL=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF &&
        nice -n 19 cmake --build "$home/build" -j "$cores" --target llama-server
} 2>&1 | tee -a "$log" | awk '
    /^\[[0-9]+\/[0-9]+\]/ {
        split(substr($1, 2), step, /[\/\]]/)
        if (step[1] % 20 == 0 || step[1] == step[2]) { print "build_llama_server: step " step[1] " of " step[2]; fflush() }
    }' || die "the build failed: the end of $log says why"

cp "$home/build/bin/llama-server" "$binary.new"
"$binary.new" --version >>"$log" 2>&1 || die "the new binary does not run: see the end of $log"
mv "$binary.new" "$binary"
rm -rf "$home/build" "$source" # 400 MB that nothing needs any more
say "made $binary"
