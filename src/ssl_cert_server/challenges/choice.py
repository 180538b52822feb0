"""Which challenges can prove control of a name here (RFC 8555 section 8, RFC 8737, RFC 8738)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssl_cert_server.acme.authorize import ChallengeChoice, ChallengeSolver
from ssl_cert_server.challenges.dns01.solver import Dns01
from ssl_cert_server.errors import ChallengeFailed, NotPresented, PreflightFailed
from ssl_cert_server.pki.names import is_ip


class Challenges:
    """The solvers that the configuration enables; the quickest comes first."""

    def __init__(self, *, direct: Sequence[ChallengeSolver], dns01: Dns01 | None) -> None:
        """``direct`` are those by which the CA visits the name itself: http-01 and tls-alpn-01."""
        self._direct = tuple(direct)
        self._dns01 = dns01

    def types(self, name: str) -> tuple[str, ...]:
        """Give the challenge types for a name as it is ordered, best first, as far as the configuration alone tells.

        A wildcard can be proven in DNS only, an IP address never.
        """
        found = [] if name.startswith("*.") else [solver.type for solver in self._direct]
        if self._dns01 is not None and not is_ip(name) and self._dns01.handles(name.removeprefix("*.")):
            found.append(self._dns01.type)
        return tuple(found)

    async def possible(self, name: str) -> tuple[str, ...]:
        """Give the challenge types for a name as it is ordered, best first, never none.

        DNS is asked whether dns-01 can prove a name whose own zone is not configured: it can where a CNAME leads into
        one that is.

        :raises PreflightFailed: none can; the message says why, and what to do.
        """
        found = self.types(name)
        obstacle = None
        if self._dns01 is not None and self._dns01.type not in found and not is_ip(name):
            obstacle = await self._dns01.obstacle(name.removeprefix("*."))
            if obstacle is None:
                return (*found, self._dns01.type)
        if not found:
            raise PreflightFailed(_nothing(name, obstacle))
        return found

    def among(self, types: Mapping[str, Sequence[str]], used: dict[str, str]) -> ChallengeChoice:
        """Give the choice that is limited to these challenge types for each name.

        ``used`` gets, for each name as it is ordered, the type of the challenge that was presented for it.
        """
        solvers = [*self._direct, *([self._dns01] if self._dns01 is not None else [])]
        by_type = {solver.type: solver for solver in solvers}
        # Not by what is presented: a wildcard and its apex are the same name there, and may be proven differently.
        return lambda name: [_Noting(by_type[kind], name, used) for kind in types.get(name, ())]


def _nothing(name: str, obstacle: str | None) -> str:
    """Say that nothing can prove a name, and what to do."""
    remedy = "wildcards need challenges.dns01" if name.startswith("*.") else "see challenges"
    but = f", but {obstacle}" if obstacle else ""
    return f"{name}: no challenge is configured that can prove control of it; {remedy}{but}"


class _Noting:
    """A solver that notes that it was used for ``ordered``, and says so where it fails."""

    def __init__(self, solver: ChallengeSolver, ordered: str, used: dict[str, str]) -> None:
        self.type = solver.type
        self._solver = solver
        self._ordered = ordered
        self._used = used

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        self._used[self._ordered] = self.type
        try:
            await self._solver.present(name, token, key_authorization)
        except ChallengeFailed as error:
            raise NotPresented(str(error), name=self._ordered, challenge=self.type) from error

    async def cleanup(self, name: str, token: str) -> None:
        await self._solver.cleanup(name, token)
