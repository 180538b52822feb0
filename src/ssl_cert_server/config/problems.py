"""What is wrong with a document, in the product's own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ssl_cert_server.config.addresses import ListenAddress, TcpAddress, parse_address
from ssl_cert_server.config.keys import explain_unknown
from ssl_cert_server.config.tree import Document, KeyPath, render_path
from ssl_cert_server.config.values import host_name, matches
from ssl_cert_server.errors import ConfigProblem

_WORDS: Mapping[str, str] = {
    "missing": "this key is required",
    "model_type": "must be a section with keys of its own",
    "string_type": "must be text, not a list or a section",
    "path_type": "must be a path, not a list or a section",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of a sensible size",
    "tuple_type": "must be a list: [one, two], or one entry a line, each after a dash",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
}
_BOOL = TypeAdapter(bool)


def schema_problems(error: ValidationError, document: Document) -> Iterator[ConfigProblem]:
    """Translate what pydantic found."""
    for detail in error.errors(include_url=False):
        path = _shorten(detail["loc"], document)
        yield _problem(document, path, _explain(detail))


def cross_problems(document: Document) -> Iterator[ConfigProblem]:
    """Find what single values can't show. It works on the raw data, so that other mistakes don't hide these."""
    yield from _twice_listened(document)
    yield from _taken_keys(document)
    acme = document.data.get("acme")
    if not isinstance(acme, list) or not acme:
        return
    if len(acme) > 1:
        yield _problem(document, ("acme", 1), "this version issues from one CA; give one entry")
    lets_encrypt = document.data.get("lets_encrypt")
    if isinstance(lets_encrypt, dict) and _is_true(lets_encrypt.get("staging")):
        message = "staging is Let's Encrypt's, but acme names another CA; give one of the two"
        yield _problem(document, ("lets_encrypt", "staging"), message)


def _twice_listened(document: Document) -> Iterator[ConfigProblem]:
    listen = document.data.get("listen")
    first: dict[ListenAddress, int] = {}
    for index, entry in enumerate(listen if isinstance(listen, list) else ()):
        try:
            address = parse_address(entry)
        except ValueError:
            continue  # the schema says so
        if isinstance(address, TcpAddress) and address.port == 0:
            continue  # two free ports are two addresses
        if first.setdefault(address, index) != index:
            yield _problem(document, ("listen", index), f"the same address as listen[{first[address]}]")


def _taken_keys(document: Document) -> Iterator[ConfigProblem]:
    """Find storage keys of certificates that aren't ACME's under which an ACME certificate would be written."""
    answered = _answered_by_acme(document)
    for path in _key_paths(document):
        key = _at(document.data, path)
        if isinstance(key, str) and answered(key.removesuffix("+rsa")):
            message = "certificates by ACME for the name of the same spelling are kept under this key; choose another"
            yield _problem(document, path, message)


def _key_paths(document: Document) -> Iterator[KeyPath]:
    managed = document.data.get("managed")
    for index in range(len(managed) if isinstance(managed, list) else 0):
        yield ("managed", index, "cert_key")
    yield ("self_signed", "cert_key")


def _answered_by_acme(document: Document) -> Callable[[str], bool]:
    """Tell of a text whether it is a host name that a CA would issue for: ``managed`` is looked at first."""
    lists = [document.data, document.data.get("lets_encrypt")]
    domains = {_spelling(name) for section in lists for name in _texts(section, "domains")}
    patterns = [pattern for section in lists for pattern in _texts(section, "re_patterns")]
    managed = document.data.get("managed")
    entries = managed if isinstance(managed, list) else []
    taken = [pattern for pattern in (_at(entry, ("pattern",)) for entry in entries) if isinstance(pattern, str)]

    def answered(name: str) -> bool:
        if _spelling(name) != name or any(matches(pattern, name) for pattern in taken):
            return False
        return name in domains or any(matches(pattern, name) for pattern in patterns)

    return answered


def _spelling(name: str) -> str | None:
    try:
        return host_name(name)
    except ValueError:
        return None


def _texts(section: object, key: str) -> list[str]:
    entries = section.get(key) if isinstance(section, dict) else None
    return [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []


def _at(data: object, path: KeyPath) -> object:
    for step in path:
        try:
            data = data[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _is_true(value: object) -> bool:
    try:
        return _BOOL.validate_python(value)
    except ValidationError:
        return False


def _explain(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return explain_unknown(detail["loc"])
    if kind == "value_error":
        return str(context["error"])
    if detail["input"] is None:
        return "must not be empty"
    return _WORDS[kind].format_map(context)


def _shorten(path: KeyPath, document: Document) -> KeyPath:
    """Drop an index that isn't in the file: a single ``listen`` is a list of one to the schema only."""
    if path and isinstance(path[-1], int) and path not in document.lines:
        return path[:-1]
    return path


def _problem(document: Document, path: KeyPath, message: str) -> ConfigProblem:
    return ConfigProblem(render_path(path), message, document.line(path))
