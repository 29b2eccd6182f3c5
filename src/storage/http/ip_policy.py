"""Which IP addresses a URL in a request may lead to: public ones, and networks that the operator allows."""

import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from src.storage.settings import Network

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], list[Address]]

# Azure's metadata service has a public address; some Python versions count the other two as global.
RESERVED = (ip_network("168.63.129.16/32"), ip_network("192.0.0.0/24"), ip_network("3fff::/20"))
NAT64 = ip_network("64:ff9b::/96")
IPV4_MAPPED = ip_network("::ffff:0:0/96")
# Other IPv6 ranges are unallocated or obsolete encodings of IPv4 and private addresses that some systems still route.
ALLOCATED_IPV6 = (ip_network("2000::/3"), NAT64, IPV4_MAPPED)


def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host in the system's order; OSError if there is none.

    Resolves all spellings that the system accepts: 2130706433 and 0x7f.1 are 127.0.0.1.
    """
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries))


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether the address is in one of the `networks`, or it and every address embedded in it are public."""
    return any(address in network for network in networks) or all(
        is_public(embedded) for embedded in embedded_addresses(address)
    )


def is_public(address: Address) -> bool:
    """Not private, loopback, link-local (cloud metadata), shared, multicast or reserved."""
    if isinstance(address, IPv6Address) and not any(address in network for network in ALLOCATED_IPV6):
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in RESERVED)


def embedded_addresses(address: Address) -> Iterator[Address]:
    """The address itself, and the IPv4 addresses that an IPv6 address encodes: mapped, 6to4, Teredo, NAT64."""
    yield address
    if isinstance(address, IPv6Address):
        embedded = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in NAT64:
            embedded.append(IPv4Address(int(address) & 0xFFFFFFFF))
        yield from (ipv4 for ipv4 in embedded if ipv4 is not None)
