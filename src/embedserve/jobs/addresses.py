"""Which addresses are reachable from everywhere, and hence reveal nothing that only this server can see.

The table is our own, after IANA's registries of special-purpose addresses (as of 2025): what
:mod:`ipaddress` calls global differs between the versions of Python, and a server's safety should not.
IPv6 is the other way round: only 2000::/3 is assigned to the public, and not all of it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL_4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by the customers of a provider
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
_PUBLIC_6 = IPv6Network("2000::/3")
_SPECIAL_6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID and others
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]
_CLOSED: list[Network] = [
    IPv4Network("0.0.0.0/32"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("255.255.255.255/32"),
    IPv4Network("100.100.100.200/32"),  # credentials of a cloud's machines, as the next four
    IPv4Network("168.63.129.16/32"),
    IPv4Network("192.0.0.192/32"),
    IPv6Network("fd00:ec2::/32"),
    IPv6Network("fd20:ce::/64"),
    IPv6Network("::/128"),
    IPv6Network("fe80::/10"),
    IPv6Network("fec0::/10"),
    IPv6Network("ff00::/8"),
]
"""Not even the operator opens these."""

_MAPPED, _COMPATIBLE = IPv6Network("::ffff:0:0/96"), IPv6Network("::/96")
_NAT64, _SIX_TO_FOUR = IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""Third quarter of an address that carries an IPv4 one in its last."""


def parse_address(text: str) -> Address | None:
    """An address as text, in its usual spelling; a zone behind ``%`` is dropped. None for anything else."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether everybody can reach it; one wrapped in another (IPv4 in IPv6) counts as what is inside too."""
    return not is_closed(address) and all(_is_public(layer) for layer in layers(address))


def is_closed(address: Address) -> bool:
    """Whether it stays closed whatever the operator opens."""
    return any(_contains(network, layer) for layer in layers(address) for network in _CLOSED)


def is_within(address: Address, networks: list[Network]) -> bool:
    """Whether what the address leads to lies in one of them."""
    return any(_contains(network, layers(address)[-1]) for network in networks)


def layers(address: Address) -> list[Address]:
    """Where a packet to the address really goes, the innermost last; an ISATAP address goes both ways."""
    if isinstance(address, IPv4Address):
        return [address]
    value = int(address)
    plain = IPv6Address(value)  # without its zone, which would keep it from being in any network
    if plain in _MAPPED or plain in _NAT64 or (plain in _COMPATIBLE and value > 1):
        return [IPv4Address(value & 0xFFFFFFFF)]
    if plain in _SIX_TO_FOUR:
        return [plain, IPv4Address(value >> 80 & 0xFFFFFFFF)]
    if plain in _TEREDO:
        return [plain, IPv4Address(~value & 0xFFFFFFFF)]
    if value >> 32 & 0xFFFFFFFF in _ISATAP:
        return [plain, IPv4Address(value & 0xFFFFFFFF)]
    return [plain]


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    return address in _PUBLIC_6 and not any(address in network for network in _SPECIAL_6)


def _contains(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network
