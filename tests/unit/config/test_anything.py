"""Whatever the text is, it is a configuration or a ConfigError: never a traceback, never a word of pydantic's."""

from __future__ import annotations

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ssl_cert_server.config.keys import join, sections
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.errors import ConfigError, ConfigProblem

KNOWN = sorted({name for section in sections().values() for name in section.model_fields})
FRAGMENTS = [
    *KNOWN,
    *"-:[]{}&*!|>%@`'\"#?,\n\t\\~<>1",
    *(" ", "  ", ": ", "- ", "&a ", "*a", "<<: ", "---\n", "...\n", "%YAML ", "%TAG ! ", "!!int", "!!binary", "!<x>"),
    *("\\U", "\\x", "\ufeff", "\x85", "\u2028", "0x", "é"),
]


def check(text: str) -> None:
    problems: tuple[ConfigProblem, ...] = ()
    try:
        parse_config(text, "c")
    except ConfigError as error:
        problems = error.problems
    for problem in problems:
        assert "\n" not in problem.path + problem.message
        assert "nput should" not in problem.message


@given(st.text())
@example("\ud800")
def test_any_text(text: str) -> None:
    check(text)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
def test_anything_that_looks_like_yaml(text: str) -> None:
    check(text)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(
        [
            "redis",
            "a.example.com",
            ":1",
            "unix:",
            "(",
            "a@b.c",
            "https://a",
            "http://[",
            "*.a.b",
            "/",
            "off",
            "5/1h",
            "exec",
        ]
    ),
)


def nested(children: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    keys = st.one_of(st.sampled_from(KNOWN), st.text(max_size=8))
    return st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=6)


def section_at(place: str) -> st.SearchStrategy[object]:
    keys = {name: value_at(join(place, name)) for name in sections()[place].model_fields}
    return st.fixed_dictionaries({}, optional=keys)


def value_at(place: str) -> st.SearchStrategy[object]:
    if place in sections():
        return section_at(place) | VALUES
    if f"{place}[]" in sections():
        return st.lists(section_at(f"{place}[]") | VALUES, max_size=3) | VALUES
    return VALUES


VALUES: st.SearchStrategy[object] = st.recursive(SCALARS, nested, max_leaves=8)
DOCUMENTS = section_at("")


@given(DOCUMENTS | VALUES)
def test_any_data(data: object) -> None:
    check(yaml.safe_dump(data, allow_unicode=True))
