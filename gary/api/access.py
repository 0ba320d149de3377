"""Who asks, and how often: API keys, clients' addresses, rates. Knows nothing of routes or bodies.

A key is known by its SHA-256 alone and is in no value that leaves this module; everywhere else its holder's name stands
for it.

Rates are counted in this process's memory, by a sliding window. So each ingress replica allows the whole rate: with N
of them a client may get up to N times as many. A count in the database would be exact, and would cost it a write for
every refusal, of which it is to be spared; and nothing would be limited while it is down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from time import time

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from pydantic.networks import IPvAnyNetwork

from gary.config import AccessConfig, ApiKey
from gary.errors import TooManyRequests, Unauthorized

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
# With a port, as some proxies write addresses: 192.0.2.1:5000, [2001:db8::1]:5000
_WITH_PORT = re.compile(r"\[(?P<six>[^\]]+)\](:[0-9]+)?|(?P<four>[0-9.]+):[0-9]+")
_HOPS_MAX = 32

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        address: of the client, as far as it is known.
        holder: of the API key that it showed; None where none is asked for.
    """

    address: str
    holder: str | None = None

    def __str__(self) -> str:
        return self.holder or self.address


class KeyRing:
    """The keys that are let in."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = tuple((key.name, bytes.fromhex(key.sha256)) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def holder(self, authorization: str | None, x_api_key: str | None) -> str:
        """Whose key it is, from the two headers that may carry one; X-API-Key counts where both do.

        Raises:
            Unauthorized: no key, or an unknown one; which of them, the sentence says, and never the key.
        """
        bearer = _BEARER.fullmatch(authorization.strip()) if authorization else None
        key = x_api_key.strip() if x_api_key else (bearer[1] if bearer else "")
        if not key:
            raise Unauthorized("send an API key, as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'")
        name = self.find(key)
        if name is None:
            raise Unauthorized("this API key is not known here")
        return name

    def find(self, key: str) -> str | None:
        """The holder's name. Every key is compared, each in constant time, whichever fits."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        fitting = [name for name, known in self._keys if hmac.compare_digest(known, digest)]
        return fitting[0] if fitting else None


class ProxyChain:
    """Finds a client's address behind the proxies that are trusted to name it."""

    def __init__(self, trusted: Iterable[IPvAnyNetwork]) -> None:
        self._trusted = tuple(trusted)

    def client(self, peer: str | None, forwarded_for: str) -> str:
        """The rightmost address that no trusted proxy has: what stands further left, a client may have written itself.

        Args:
            peer: the other end of the connection.
            forwarded_for: X-Forwarded-For, several of them joined by commas.
        """
        nearest = _address(peer or "")
        if nearest is None:
            return "unknown"
        for hop in reversed(forwarded_for.split(",")[-_HOPS_MAX:]):
            if not self._trusts(nearest):
                break
            before = _address(hop)
            if before is None:  # the proxy could not tell either
                break
            nearest = before
        return str(nearest)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


class RateLimits:
    """POSTs per client's address and per key's holder.

    Args:
        window_s: what the configured numbers count in.
    """

    def __init__(self, access: AccessConfig, window_s: int = 60) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._window_s = window_s
        self._per_address = self._item(access.address_posts_per_minute)
        self._per_key = self._item(access.key_posts_per_minute)

    async def count_address(self, address: str) -> None:
        """Raises TooManyRequests where the address has had its share."""
        await self._count(self._per_address, "address", _neighbourhood(address))

    async def count_holder(self, holder: str) -> None:
        """Raises TooManyRequests where the key's holder has had its share."""
        await self._count(self._per_key, "API key", holder)

    def _item(self, amount: int | None) -> RateLimitItem | None:
        return RateLimitItemPerSecond(amount, self._window_s) if amount is not None else None

    async def _count(self, item: RateLimitItem | None, what: str, who: str) -> None:
        if item is None or await self._limiter.hit(item, what, who):
            return
        reset_time, _ = await self._limiter.get_window_stats(item, what, who)
        raise TooManyRequests(
            f"this {what} may send {item.amount} POSTs in {self._window_s} s, and has; try again later",
            retry_after_s=max(0.0, reset_time - time()),
        )


def _address(text: str) -> Address | None:
    """None where it is none, such as `unknown`. One that maps an IPv4 address is that address."""
    text = text.strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match["six"] or match["four"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _neighbourhood(address: str) -> str:
    """What is counted as one: an IPv4 address, or the /64 that one IPv6 subscriber has to choose addresses from."""
    parsed = _address(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), 64), strict=False))
    return address
