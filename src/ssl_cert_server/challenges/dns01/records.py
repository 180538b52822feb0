"""What is about to be set in DNS, kept in storage first, so that a crash leaves nothing behind for good."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from josepy.json_util import encode_b64jose

FOLDER = "_challenges/dns-01"
"""Where it is kept, one key for each value."""


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """A value that is, or may be, in DNS.

    ``record`` is the TXT record's name, ``zone`` names the :class:`~.zones.ZoneProvider` that set it, ``created`` is
    in Unix seconds.
    """

    record: str
    value: str
    zone: str
    created: float

    @property
    def key(self) -> str:
        """The storage key. The same value at the same record has the same one in every instance."""
        return f"{FOLDER}/{hashlib.sha256(f'{self.record} {self.value}'.encode()).hexdigest()}"

    def to_json(self) -> bytes:
        """Give what is stored."""
        return json.dumps(asdict(self)).encode()


def parse_record(stored: bytes | None) -> KeptRecord | None:
    """Read what is stored; None where it makes no sense."""
    try:
        fields = json.loads(stored or b"")
        record, value, zone = (str(fields[key]) for key in ("record", "value", "zone"))
        return KeptRecord(record, value, zone, float(fields["created"]))
    except (ValueError, TypeError, KeyError):
        return None


def txt_value(key_authorization: str) -> str:
    """Give what a CA looks for: 43 characters, from which the key authorization can't be told."""
    return encode_b64jose(hashlib.sha256(key_authorization.encode()).digest())


def lease_of(key: str) -> str:
    """Name the lease of a kept record's key: whoever holds it uses the value in DNS."""
    return f"dns-01/{key.rpartition('/')[2]}"
