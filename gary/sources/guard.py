"""What the fetching process may touch: the hosts that are listed, at public addresses, and one program.

An audit hook sees every look-up of a name, and every connect of Python's sockets at the moment it happens, with the
very address that the kernel will get. So redirects, names that resolve differently the second time and a stream's
fragments are all held to the same rule, and there is no time between check and use. It cannot be taken off again
(PEP 578). It guards trusted code that works on hostile data; it is no cage for hostile code.

Asking the resolver needs no exception here: libc does so over sockets of its own, which are not Python's.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection
from typing import Any

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is reached
# Public by their number, but answered inside of clouds: protocol assignments and Azure's host.
_INSIDE_CLOUDS = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("168.63.129.16/32"))

_CONNECTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOKUPS = frozenset({"socket.gethostbyname", "socket.gethostbyaddr"})  # they name no port; nothing of ours uses them
_WEB_PORTS = frozenset({80, 443})
_STARTS = frozenset({"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn"})


class AddressRefused(PermissionError):
    """A connection to an address that is not public, or to a host that is not listed, was prevented."""


class ProgramRefused(PermissionError):
    """The start of a program was prevented."""


def is_public(host: str) -> bool:
    """Whether a literal IP address is one of the public internet; False for anything that is no address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded_ipv4(address)
        if inner is not None:
            return is_public(str(inner))
        if address.is_site_local:
            return False
    elif any(address in network for network in _INSIDE_CLOUDS):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class Guard:
    """An audit hook, to be given to `sys.addaudithook`.

    Args:
        listed_address: (IP, port) that may be reached although it may not be public.
        program: absolute path of the one program that may be started.
        hosts: whose names may be looked up: `host` at the ports of the web, `host:port`, or `.host` for it and all
            below it. An address counts as a name, for it is looked up like one.
    """

    def __init__(
        self, listed_address: tuple[str, int] | None, program: str | None, hosts: Collection[str] = ()
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._listed = None if listed_address is None else (ipaddress.ip_address(listed_address[0]), listed_address[1])
        self._program = program
        self._checks: dict[str, Callable[[tuple[Any, ...]], None]] = {
            **dict.fromkeys(_CONNECTS, self._check_address),
            **dict.fromkeys(_LOOKUPS, self._refuse_lookup),
            "socket.getaddrinfo": self._check_lookup,
            **dict.fromkeys(_STARTS, self._refuse_start),
            "subprocess.Popen": self._check_program,
        }

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        check = self._checks.get(event)
        if check is not None:
            check(args)

    def _check_address(self, args: tuple[Any, ...]) -> None:
        address = args[1]
        if address is None:  # sendmsg on a socket that is connected already
            return
        if not self._may_reach(address):
            raise AddressRefused(f"{address!r} is not a public address")

    def _may_reach(self, address: object) -> bool:
        match address:
            # A name is refused: it would be resolved only after this check.
            case (str(host), int(port), *_):
                return is_public(host) or self._is_listed(host, port)
        return False

    def _is_listed(self, host: str, port: int) -> bool:
        try:
            return (ipaddress.ip_address(host), port) == self._listed
        except ValueError:
            return False

    def _check_lookup(self, args: tuple[Any, ...]) -> None:
        host, port = args[0], args[1]
        if isinstance(host, bytes):
            host = host.decode("ascii", "replace")
        if not (isinstance(host, str) and isinstance(port, int) and self._may_look_up(host.lower(), port)):
            raise AddressRefused(f"{host!r} at port {port!r} is not listed")

    def _may_look_up(self, host: str, port: int) -> bool:
        bare = f"[{host}]" if ":" in host else host
        if f"{bare}:{port}" in self._hosts:
            return True
        parts = host.split(".")
        above = {"." + ".".join(parts[index:]) for index in range(len(parts))}
        return port in _WEB_PORTS and not self._hosts.isdisjoint({bare, *above})

    def _refuse_lookup(self, args: tuple[Any, ...]) -> None:
        raise AddressRefused(f"{args!r} may not be looked up")

    def _check_program(self, args: tuple[Any, ...]) -> None:
        program = os.fsdecode(args[0])
        if program != self._program:
            raise ProgramRefused(f"{program!r} may not be started")

    def _refuse_start(self, args: tuple[Any, ...]) -> None:
        raise ProgramRefused(f"{args!r} may not be started")
