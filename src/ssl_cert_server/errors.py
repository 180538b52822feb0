"""Every exception this package raises, in one tree, branched by who must act.

::

    CertServerError
    ├── ConfigError              the operator: the configuration file is wrong
    ├── StartError               the operator: the server can't start here
    ├── OutputFailed             the operator: standard output can't be written
    ├── RequestError             the client: nothing to retry, the question is wrong
    │   ├── InvalidName            not a host name we could answer for
    │   └── NotPermitted           no rule of the configuration covers the name
    ├── InvalidCertificate       whoever made it: key and chain that can't be used
    ├── LookupFailed             nobody: DNS gave no usable answer
    ├── StorageError             the operator: storage refused, is full, or is gone
    │   ├── LeaseLost              nobody: another instance took over this work, or may have
    │   └── NotOpened              the operator: a value is sealed with a key unknown here, or damaged
    ├── Unavailable              nobody: ask again after ``retry_after`` seconds
    │   ├── BackingOff             the name failed lately and isn't tried before then
    │   ├── BudgetSpent            the CA's limits, or our own, leave no room now
    │   ├── CaClosed               every CA failed lately, and none is asked before then
    │   ├── AskFailed              the endpoint of ``ask`` gave no verdict
    │   ├── Overloaded             too many issuances wait already
    │   └── DeadlineExceeded       it took longer than the caller may wait
    ├── OcspError                the CA's OCSP responder, or the way to it; carries ``retry_after``
    │   ├── ResponderUnreachable   no usable answer: connection, TLS, time-out, an HTTP error
    │   ├── ResponderRefused       an answer that says it won't (RFC 6960 section 4.2.1)
    │   └── MalformedStaple        an answer that can't be trusted, or none about the certificate
    └── AcmeError                the CA, or the way to it; carries ``retry_after``
        ├── CaUnreachable          no usable answer: connection, TLS, time-out
        │   └── AnswerLost           the request may have arrived: what it did is unknown
        │       └── AnswerRepeated     an earlier request's answer came in its place
        ├── MalformedResponse      an answer that RFC 8555 doesn't allow
        ├── CaTooSlow              the CA has not finished what it began
        ├── AccountRefused         the CA lets us have no account
        ├── CaProblem              the CA said no, in a problem document
        ├── OrderFailed            an order or authorization ended as invalid
        │   └── ValidationFailed     the CA did not find a challenge's answer
        ├── PreflightFailed        the CA would have failed, so it was not asked
        └── ChallengeFailed        a challenge's answer could not be put in its place
            └── NotPresented         the same, told with the name and the type of the challenge

A message tells what happened, to which name or key, and what to do. None ever holds a private key, a token or a
key authorization.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus


class CertServerError(Exception):
    """Root of the tree; never raised itself."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration file.

    ``path`` is the key's path (``lets_encrypt.domains[2]``), ``line`` the line of the file counted from 1, or None
    where the mistake has no line (a missing file).
    """

    path: str
    message: str
    line: int | None = None


class ConfigError(CertServerError):
    """Everything that is wrong with a configuration, at once."""

    def __init__(self, source: str, problems: tuple[ConfigProblem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        lines = []
        for problem in self.problems:
            place = self.source if problem.line is None else f"{self.source}:{problem.line}"
            key = f"{problem.path}: " if problem.path else ""
            lines.append(f"{place}: {key}{problem.message}")
        return lines


class StartError(CertServerError):
    """The server can't start here: a port is taken, a directory isn't writable."""


class OutputFailed(CertServerError):
    """Standard output can't be written: it is closed, full, or nobody reads it any more."""


class RequestError(CertServerError):
    """The question is wrong; asking again doesn't help."""


class InvalidName(RequestError):
    """Not a host name we could answer for."""


class NotPermitted(RequestError):
    """No rule of the configuration covers the name."""


class InvalidCertificate(CertServerError):
    """A private key and chain that can't be used: unparsable, not a pair, expired, for another name."""


class LookupFailed(CertServerError):
    """DNS gave no usable answer: a time-out, SERVFAIL, REFUSED. That a name doesn't exist is an answer."""


class StorageError(CertServerError):
    """Storage refused, is full, or can't be reached."""


class LeaseLost(StorageError):
    """The lease lapsed, and another holder took over or may have; what was to be done under it was not."""


class NotOpened(StorageError):
    """A sealed value can't be opened: its key isn't known here, or it is damaged. Everything else may be well."""


class Unavailable(CertServerError):
    """Not now. ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackingOff(Unavailable):
    """The name failed lately and isn't tried before ``retry_after``.

    ``suspect`` tells whether the name itself may be the reason, rather than storage or a CA that is down.
    """

    def __init__(self, message: str, retry_after: float, *, suspect: bool = True) -> None:
        super().__init__(message, retry_after)
        self.suspect = suspect


class BudgetSpent(Unavailable):
    """The CA's limits, or our own, leave no room now. The message names the limit.

    ``everyone`` tells whether the limit holds for every name, not only for those that were asked for.
    """

    def __init__(self, message: str, retry_after: float, *, everyone: bool) -> None:
        super().__init__(message, retry_after)
        self.everyone = everyone


class CaClosed(Unavailable):
    """Every CA failed lately, and none is asked before ``retry_after``, for whatever name."""


class AskFailed(Unavailable):
    """The endpoint of ``ask`` could not be reached, or gave neither yes nor no."""


class Overloaded(Unavailable):
    """Too many issuances wait already."""


class DeadlineExceeded(Unavailable):
    """It took longer than the caller may wait; the work goes on in the background."""


class OcspError(CertServerError):
    """The CA's OCSP responder, or the way to it. ``retry_after`` (seconds) is what it asked for, where it did."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ResponderUnreachable(OcspError):
    """No usable answer: connection refused or reset, time-out, a status other than 200."""


class ResponderRefused(OcspError):
    """The responder's answer is an error: it doesn't know the certificate, or can't now."""


class MalformedStaple(OcspError):
    """The answer can't be parsed, is about another certificate, out of date, or signed by somebody who may not."""


class AcmeError(CertServerError):
    """The CA, or the way to it. ``retry_after`` (seconds) is what the CA asked for, where it did."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CaUnreachable(AcmeError):
    """No usable answer: connection refused or reset, TLS failure, time-out."""


class AnswerLost(CaUnreachable):
    """A request that may have reached the CA, and whose answer did not come: what it did is unknown."""


class AnswerRepeated(AnswerLost):
    """The answer to an earlier request came in place of this one's: the CA answers, that connection is of no use."""


class MalformedResponse(AcmeError):
    """An answer that RFC 8555 doesn't allow."""


class CaTooSlow(AcmeError):
    """The CA has not finished what it began; the order may be resumed."""


class AccountRefused(AcmeError):
    """The CA lets us have no account, so nothing can be ordered there, for whatever name."""


class CaProblem(AcmeError):
    """The CA said no in a problem document (RFC 8555 section 6.7).

    ``type`` is the problem's short type (``rateLimited``) where it is one of ACME's, else its whole URI; ``status``
    is the HTTP status. ``everyone`` tells whether it holds whatever is asked for: it was said of the directory or of a
    nonce, or it is a 429 that isn't about one of the CA's own limits, but of something before it.
    """

    def __init__(
        self, message: str, *, type: str, status: int, retry_after: float | None = None, everyone: bool = False
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.type = type
        self.status = status
        self.everyone = everyone or (status == HTTPStatus.TOO_MANY_REQUESTS and type != "rateLimited")

    @property
    def passing(self) -> bool:
        """Whether the CA can't now (a limit, a fault of its own), rather than won't.

        What is no problem document of ACME's is not the CA's word, but that of something before it; a 404 counts as one
        all the same, since a CA that forgot a resource may say so in any words.
        """
        return self.status >= 429 or (self.type == "about:blank" and self.status not in (404, 410))


class OrderFailed(AcmeError):
    """An order or one of its authorizations ended as invalid; the message holds the CA's own words."""


class ValidationFailed(OrderFailed):
    """The CA looked for a challenge's answer and did not find it, so the order is invalid.

    ``name`` is the name as it was ordered, ``challenge`` the challenge's type (``http-01``), ``problem`` the type of
    the CA's problem document (``connection``).
    """

    def __init__(self, message: str, *, name: str, challenge: str, problem: str) -> None:
        super().__init__(message)
        self.name = name
        self.challenge = challenge
        self.problem = problem

    @property
    def of_this_ca(self) -> bool:
        """Whether it isn't about what the CA found, but its own trouble, or that it may not: another CA may do."""
        return self.problem in ("caa", "rejectedIdentifier", "serverInternal", "rateLimited")


class PreflightFailed(AcmeError):
    """What the CA would look at says that it would refuse, so it was not asked: addresses, or CAA."""


class ChallengeFailed(AcmeError):
    """A challenge's answer could not be put in its place: a DNS provider refused, or its servers don't show it."""


class NotPresented(ChallengeFailed):
    """A challenge's answer could not be put in its place, so the CA was not asked to look: another type may do.

    ``name`` is the name as it was ordered, ``challenge`` the challenge's type (``dns-01``).
    """

    def __init__(self, message: str, *, name: str, challenge: str) -> None:
        super().__init__(message)
        self.name = name
        self.challenge = challenge
