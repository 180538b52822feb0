"""Files and YAML that can't be read any further, and files that can."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssl_cert_server.config.load import MAX_FILE, load_config, parse_config
from ssl_cert_server.errors import ConfigError
from tests.unit.config.support import PREDECESSOR, mistakes, only_mistake

TOO_DEEP = "nested more than 20 levels deep"
TOO_MANY = "holds more than 200000 values"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "1: must be a mapping of keys, like `listen: ...`"),
        ("\nlisten", "2: must be a mapping of keys, like `listen: ...`"),
        ("storage:\n\ttype: x", "2: not valid YAML: a tab where YAML wants spaces; indent with spaces only"),
        ("a: b\n\0", "2: not valid YAML: holds a control character or another that YAML forbids"),
        ("a: b: c", "1: not valid YAML: a colon that can't stand here; put quotes around text that holds one"),
        ('a: 1\nb: "c\n\n', "2: not valid YAML: a quote is never closed"),
        ("a: b\n---\nc: d", "2: not valid YAML: a second document (---); a configuration is one"),
        ("a: *b", "1: not valid YAML: found undefined alias 'b'"),
        ("a: [b\nc: d", "2: not valid YAML: expected ',' or ']', but got ':'"),
        ('\na: "\\U00110000"', "2: not valid YAML: an escape or version number is out of range"),
        ('\na: "\\UFFFFFFFF"', "2: not valid YAML: an escape or version number is out of range"),
        (f"%YAML 1.{'9' * 5000}\n---\n", "1: not valid YAML: an escape or version number is out of range"),
        ("!!python/name:os.system {}", "1: YAML tags (starting with !) are not supported"),
        ("[" * 100_000, f"1: not valid YAML: {TOO_DEEP}"),
        ("- " * 100_000, f"1: not valid YAML: {TOO_DEEP}"),
        ("a: &a [*a]", f"1: {TOO_DEEP}"),
        ("a: &a {b: *a}", f"1: {TOO_DEEP}"),
    ],
)
def test_what_is_no_configuration_at_all(text: str, expected: str) -> None:
    assert only_mistake(text) == expected


def test_billions_of_values_by_aliases() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert only_mistake("\n".join(lines)) == f"1: {TOO_MANY}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: ':1'\nlisten: ':2'", "2: listen: this key is given twice (first on line 1)"),
        ("[a]: b", "1: a key must be plain text, not a list or a mapping"),
        ("storage:\n  ? {a: b}\n  : c", "2: storage: a key must be plain text, not a list or a mapping"),
        ("<<: {listen: ':1'}", '1: "<<": merge keys are not supported; write the keys out'),
        ("pid_file: !!python/object/apply:os.system [x]", "1: pid_file: YAML tags (starting with !) are not supported"),
        ("pid_file: !secret x", "1: pid_file: YAML tags (starting with !) are not supported"),
        ("domains: [!secret x]", "1: domains[0]: YAML tags (starting with !) are not supported"),
        ("domains: !!set {a}", "1: domains: YAML tags (starting with !) are not supported"),
    ],
)
def test_what_yaml_allows_and_a_configuration_does_not(text: str, expected: str) -> None:
    assert only_mistake(text) == expected


def test_mistakes_of_yaml_do_not_hide_those_of_keys() -> None:
    assert mistakes("listen: x\nlisten: ':1'\nstorag: {}")[1:] == [
        "2: listen: this key is given twice (first on line 1)",
        "3: storag: unknown key; did you mean storage?",
    ]


def test_byte_order_mark_and_windows_lines_are_no_mistake() -> None:
    parse_config("\ufeff" + PREDECESSOR.replace("\n", "\r\n"), "c")
    assert only_mistake("pid_file: a\r\nlistn: b\r\n").startswith("2: listn")


def test_a_file_loads(tmp_path: Path) -> None:
    file = tmp_path / "conf.yaml"
    file.write_text(PREDECESSOR)
    assert load_config(file) == parse_config(PREDECESSOR, "c")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: b\nc: \xff\n", ":2: not UTF-8 text"),
        (b"\xff\xfea\0:\0", ":1: not UTF-8 text"),
        (b"#" * (MAX_FILE + 1), ": larger than 1 MiB, which no configuration is"),
        (b"nothing: 1", ":1: nothing: unknown key"),
    ],
)
def test_files_that_do_not_load_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "conf.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}{expected}")
    assert caught.value.source == str(file)


def test_a_file_of_the_greatest_size_loads(tmp_path: Path) -> None:
    file = tmp_path / "conf.yaml"
    file.write_bytes(b"#" * MAX_FILE)
    load_config(file)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nowhere.yaml", "nowhere.yaml: can't be read: no such file or directory"),
        (".", ".: can't be read: is a directory"),
        ("a\0b", "a\0b: can't be read: not a path"),
    ],
)
def test_files_that_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(Path(path))
    assert str(caught.value) == expected
    assert caught.value.problems[0].line is None


def test_a_pipe_that_the_shell_opened_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"pid_file: pipe.pid\n")
    os.close(writer)
    try:
        assert load_config(Path(f"/dev/fd/{reader}")).pid_file == Path("pipe.pid")
    finally:
        os.close(reader)


def test_the_null_device_is_an_empty_configuration(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(Path("/dev/null")) == load_config(tmp_path / "empty.yaml")
