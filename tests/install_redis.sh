#!/bin/sh
# Tests of the store in Redis start a server of their own, so there must be one to start: where neither redis-server nor
# valkey-server is on the PATH, this installs Debian's package; and openssl, for the test of TLS.
set -eu
missing=
command -v redis-server >/dev/null || command -v valkey-server >/dev/null || missing="redis-server"
command -v openssl >/dev/null || missing="$missing openssl"
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
echo "installing $missing (Debian's package), which the tests need"
export DEBIAN_FRONTEND=noninteractive
# The lists may be old, or not there at all, as on a new machine.
# shellcheck disable=SC2086  # several words are several arguments
$as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    give_up "apt-get could not install it"
# The package also starts a server of its own, which nobody asked for.
case $missing in
*redis-server*) if [ -d /run/systemd/system ]; then $as_root systemctl disable --quiet --now redis-server; fi ;;
esac
