"""Whether a CA that looks a name up comes to us: pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ssl_cert_server.pki.names import is_ip

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_SHOWN = 4


class PublicIps:
    """The addresses at which the Internet reaches us; false where none are known.

    ``entries`` are addresses or networks, as text or as networks; ValueError where one is neither. A CDN in front of
    us is a matter of naming its networks here.
    """

    def __init__(self, entries: Sequence[str | Network]) -> None:
        self._networks = [
            ipaddress.ip_network(entry, strict=False) if isinstance(entry, str) else entry for entry in entries
        ]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def objection(self, name: str, addresses: Sequence[str]) -> str:
        """Say what keeps a CA that connects to ``name`` from reaching us, and who has to change what; else nothing.

        ``addresses`` are those the name has (itself, where it is one). Every one must be ours: a CA takes any of
        them, looks from several places, and goes from IPv6 to IPv4 only where nothing answers.
        """
        if not addresses:
            return f"{name} has no A or AAAA record: its owner has to point it to one of public_ips ({self})"
        foreign = [address for address in map(ipaddress.ip_address, addresses) if not self._has(address)]
        if not foreign:
            return ""
        if is_ip(name):
            return f"{name} is none of public_ips ({self}): name it there if a CA reaches us at it"
        kinds = " and ".join(sorted({"A" if address.version == 4 else "AAAA" for address in foreign}))
        verb = "is" if len(foreign) == 1 else "are"
        where = f"{_listed(foreign)}, which {verb} none of public_ips ({self})"
        return f"{name} points to {where}: its owner has to change the {kinds} record"

    def _has(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def __str__(self) -> str:
        return _listed(
            [network.network_address if network.num_addresses == 1 else network for network in self._networks]
        )


def _listed(values: Sequence[_Address | Network]) -> str:
    shown = ", ".join(map(str, values[:_MOST_SHOWN]))
    more = len(values) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
