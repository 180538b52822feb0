"""What is wrong with single values, in the product's own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ssl_cert_server.config.keys import explain_unknown
from ssl_cert_server.config.tree import Document, KeyPath
from ssl_cert_server.errors import ConfigProblem

_WORDS: Mapping[str, str] = {
    "missing": "this key is required",
    "model_type": "must be a section with keys of its own",
    "string_type": "must be text, not a list or a section",
    "path_type": "must be a path, not a list or a section",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a section with keys of its own",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of a sensible size",
    "tuple_type": "must be a list: [one, two], or one entry a line, each after a dash",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
}


def schema_problems(error: ValidationError, document: Document) -> Iterator[ConfigProblem]:
    """Translate what pydantic found."""
    for detail in error.errors(include_url=False):
        path = _shorten(detail["loc"], document)
        yield document.problem(path, _explain(detail))


def _explain(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return explain_unknown(detail["loc"])
    if kind == "value_error":
        return str(context["error"])
    if detail["input"] is None:
        return "must not be empty"
    # As floats, the bounds would be shown with a decimal point.
    shown = {key: f"{value:.10g}" if isinstance(value, float) else value for key, value in context.items()}
    return _WORDS[kind].format_map(shown)


def _shorten(path: KeyPath, document: Document) -> KeyPath:
    """Drop an index that isn't in the file: a single ``listen`` is a list of one to the schema only."""
    if path and isinstance(path[-1], int) and path not in document.lines:
        return path[:-1]
    return path
