#!/bin/sh
# Tests of deploy/ put nginx and HAProxy in front of a running service, so they must be there: where one is not on the
# PATH, this installs Debian's package.  The programs are run by the tests, on loopback; the packages' own services are
# not wanted.
set -eu
# Debian keeps them where only root's PATH looks.
PATH=$PATH:/usr/sbin:/sbin
missing=
command -v nginx >/dev/null || missing="nginx-light"
command -v haproxy >/dev/null || missing="$missing haproxy"
[ -n "$missing" ] || exit 0

give_up() {
    echo "The tests need $missing on the PATH, and $1: please install it, then run this again." >&2
    exit 1
}
command -v apt-get >/dev/null || give_up "there is no apt-get to install it with"
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "there is no sudo to install it with"
    as_root="sudo"
fi
echo "installing $missing (Debian's packages), which the tests need"
export DEBIAN_FRONTEND=noninteractive
# The lists may be old, or not there at all, as on a new machine.
# shellcheck disable=SC2086  # several words are several arguments
$as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    give_up "apt-get could not install it"
if [ -d /run/systemd/system ]; then
    $as_root systemctl disable --quiet --now nginx haproxy 2>/dev/null || true
fi
