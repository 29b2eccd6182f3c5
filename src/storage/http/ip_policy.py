"""Which addresses a stranger's URL may lead to: public ones, and what the operator adds."""

import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from src.storage.settings import Network

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], list[Address]]

# A cloud's own service on every machine in it, though public by its number, and what Pythons take for public.
RESERVED = (ip_network("168.63.129.16/32"), ip_network("192.0.0.0/24"), ip_network("3fff::/20"))
NAT64 = ip_network("64:ff9b::/96")
MAPPED = ip_network("::ffff:0:0/96")
# All that is given out of IPv6. Outside are old forms of IPv4 addresses and of private ones, which some machines heed.
ALLOCATED_IPV6 = (ip_network("2000::/3"), NAT64, MAPPED)


def resolve(host: str, port: int) -> list[Address]:
    """Every address of a name, in the system's order; OSError when it has none.

    All spellings that the system understands end here as addresses: 2130706433 and 0x7f.1 are 127.0.0.1.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether a stranger may make us connect to this address."""
    return any(address in network for network in networks) or all(
        is_public(each) for each in embedded_addresses(address)
    )


def is_public(address: Address) -> bool:
    """Neither private, loopback, link-local (where clouds keep their metadata), shared, multicast nor reserved."""
    if isinstance(address, IPv6Address) and not any(address in network for network in ALLOCATED_IPV6):
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in RESERVED)


def embedded_addresses(address: Address) -> Iterator[Address]:
    """The address itself, and those that an IPv6 address carries for a translator on the way."""
    yield address
    if isinstance(address, IPv6Address):
        carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in NAT64:
            carried.append(IPv4Address(int(address) & 0xFFFFFFFF))
        yield from (each for each in carried if each is not None)
