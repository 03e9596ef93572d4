#!/bin/sh
# Tests of the admin page drive a browser, so there must be one to start: where chromium is not on the PATH, this
# installs Debian's package.
set -eu
command -v chromium >/dev/null && exit 0

give_up() {
    echo "The tests need chromium on the PATH, and $1: please install it, then run this again." >&2
    exit 1
}
command -v apt-get >/dev/null || give_up "there is no apt-get to install it with"
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "there is no sudo to install it with"
    as_root="sudo"
fi
echo "installing chromium (Debian's package), which the tests need"
export DEBIAN_FRONTEND=noninteractive
# The lists may be old, or not there at all, as on a new machine.  Without a font a page has no words.
$as_root apt-get update -qq &&
    $as_root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null ||
    give_up "apt-get could not install it"
