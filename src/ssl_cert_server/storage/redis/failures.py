"""What Redis says when it refuses, in words that tell the operator what to do.

What the server or the library wrote is not passed on as it is: it may repeat the command, and with it a private key.
"""

from __future__ import annotations

import re

from redis import exceptions

from ssl_cert_server.errors import StorageError

_ADVICE = {
    "OOM": "it is out of memory; raise maxmemory (keep maxmemory-policy noeviction, so that nothing is thrown away)",
    "READONLY": "it is a replica, which can't be written; give the primary's address, or let Sentinels tell it",
    "LOADING": "it is still loading its data, and answers once it is done",
    "MASTERDOWN": "it is a replica whose primary is gone; give the primary's address, or let Sentinels tell it",
    "NOAUTH": "it wants a password, and none is configured",
    "WRONGPASS": "it refuses the user name or the password",
    "NOPERM": "the user may not do that; see the ACL rules in docs/redis.md",
    "MISCONF": "it can't write to its own disk, which may be full; see its log",
    "NOREPLICAS": "it has fewer replicas than its min-replicas-to-write wants",
    "NOREPLICASDONE": "it has fewer replicas than its min-replicas-to-write wants",
    "CLUSTERDOWN": "its cluster is down, or no node serves the slot of the prefix",
    "TRYAGAIN": "the slot of the prefix is being moved to another node; it works again when that is done",
    "ASK": "the slot of the prefix is being moved to another node; it works again when that is done",
    "MOVED": "it is a node of a cluster that doesn't serve the prefix; set cluster, and a prefix with a hash tag",
    "CROSSSLOT": "it is a node of a cluster; set cluster, and a prefix with a hash tag",
    "BUSY": "it is busy with somebody's script",
    "WRONGTYPE": "the key holds something other than a string, so it was not written by a certificate server",
    "UNBLOCKED": "it became a replica just now",
}
_SAID_OTHERWISE = {"unauthenticated": "NOAUTH", "user executing the script": "NOPERM"}
_CODE = re.compile(rf"\b({'|'.join(_ADVICE)})\b")
_SECRET_FOLLOWS = re.compile(r",? with args beginning with.*", re.DOTALL)

# The last two as well: who is cut off from the others says so, while these may have another one in its place.
_NOT_THE_ONE = {"READONLY", "MOVED", "UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS"}


class Refused(StorageError):
    """The server said no: nothing was done, and nothing will be. After any other failure it may still be."""


def code_of(error: BaseException) -> str:
    """Give the word that a refusal begins with (``OOM``), also where a script ran into it; empty where unknown."""
    code = getattr(error, "status_code", None)
    if isinstance(code, str) and code in _ADVICE:
        return code
    text = str(error)[:300]
    found = _CODE.search(text)
    return found[1] if found else next((code for words, code in _SAID_OTHERWISE.items() if words in text), "")


def is_not_the_primary(error: BaseException) -> bool:
    """Whether another server should be looked for."""
    return code_of(error) in _NOT_THE_ONE


def reason_of(error: BaseException) -> str:
    """Say what went wrong, without what may be secret."""
    advice = _ADVICE.get(code_of(error))
    if advice is not None:
        return advice
    if isinstance(error, exceptions.AuthenticationError):
        return "it refuses the user name or the password"
    text = _SECRET_FOLLOWS.sub("", str(error)).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def message_of(what: str, where: str, error: BaseException) -> str:
    """Make a message of an error of theirs. ``what`` is like "read a.example".

    Raise ours where theirs is handled no more, so that it isn't chained to it.
    """
    return f"can't {what} in Redis at {where}: {reason_of(error)}"
