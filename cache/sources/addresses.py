"""Which IP addresses an image may be fetched from: those of the public internet, and what the configuration names.

A server that fetches addresses for strangers is asked for what only it can reach: metadata services of clouds, admin
pages on loopback, printers.  So what counts is not what a host is called but the address that will be dialled, and the
question is not "is it known to be bad" but "is it known to be public":

*   IPv4 is public but for the blocks that IANA lists as special, multicast, the reserved end of the space, and single
    addresses inside public blocks that a cloud answers on every machine.
*   IPv6 is public in 2000::/3 alone, but for the blocks there that are special.

Some IPv6 addresses are IPv4 ones in disguise: mapped, compatible, translated, 6to4, Teredo.  None of these is ever the
address of a web server, so all of them are refused.  The exception is NAT64 (64:ff9b::/96): behind it, a network
without IPv4 reaches every server that has no IPv6, so there the address inside decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_SPECIAL_4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches this machine
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by providers (CGNAT); one cloud's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public address that Azure answers on each of its machines
        "169.254.0.0/16",  # link-local, metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # multicast tunnels
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

_PUBLIC_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


def dialled(text: str) -> Address | None:
    """The address that `text` is; `None` for what is none, and for one with a zone (`fe80::1%eth0`), which is local by
    nature."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def may_be_dialled(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is public, or inside one of the `allowed` networks."""
    inside = _behind_nat64(address)
    return _is_public(inside) or any(one in network for network in allowed for one in (address, inside))


def _behind_nat64(address: Address) -> Address:
    if isinstance(address, IPv6Address) and address in _NAT64:
        return IPv4Address(address.packed[12:])
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _SPECIAL_4)
    if address not in _PUBLIC_6 or any(address in block for block in _SPECIAL_6):
        return False
    return not _is_isatap(address)


def _is_isatap(address: IPv6Address) -> bool:
    """An IPv4 address in the lower half, behind the mark of a tunnel inside one site."""
    return address.packed[8:12] in (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe")
