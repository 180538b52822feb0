"""Which CAs are asked, in which order, for which keys, and how much of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ssl_cert_server.config.authorities import LETS_ENCRYPT, LETS_ENCRYPT_STAGING, Acme
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.schema import Config
from ssl_cert_server.model import KeyFamily, KeyType
from tests.unit.config.support import mistakes, only_mistake

CA = "directory_url: https://ca.example.com"
SECRET = "aHVudGVyMg"
ONE_KEY = "needs exactly one of hmac_key, hmac_key_file and hmac_key_env"
BASE64URL = "must be base64url, as the CA gave it: letters, digits, - and _"
KEY_TYPES = "must be ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096"
FAMILIES = "must be of the same families as that of acme[0], in the same order; give both a key_type"
RATE = "must be a number and a period in s, m, h or d, like 300/3h, or off"


def acme(*entries: str) -> str:
    return "acme:\n" + "".join(
        f"  - {{directory_url: https://ca{n}.example.com, {e}}}\n" for n, e in enumerate(entries)
    )


def cas(text: str) -> tuple[Acme, ...]:
    return parse_config(text, "c").cas


def test_several_cas_keep_their_order() -> None:
    found = cas(acme("email: a@example.com", "profile: shortlived", "preferred_chain: A Root"))
    assert [ca.directory_url for ca in found] == [f"https://ca{n}.example.com" for n in range(3)]
    assert [ca.profile for ca in found] == [None, "shortlived", None]
    assert found[2].preferred_chain == "A Root"


def test_the_same_ca_twice() -> None:
    assert only_mistake(f"acme:\n  - {{{CA}}}\n  - directory_url: https://other\n  - {{{CA}}}") == (
        "4: acme[2].directory_url: the same CA as acme[0]"
    )


class TestKeyTypes:
    """What certificates are issued for."""

    def test_left_out_it_is_small_and_fast(self) -> None:
        assert Config().cas[0].key_types == (KeyType.ECDSA_P256,)
        assert Config().families == (KeyFamily.ECDSA,)

    def test_the_predecessors_switch_counts_where_there_is_no_other_word(self) -> None:
        config = parse_config(acme("key_type: rsa-4096", "email: a@b.c") + "lets_encrypt: {force_rsa: true}", "c")
        assert [ca.key_types for ca in config.cas] == [(KeyType.RSA_4096,), (KeyType.RSA_2048,)]
        assert parse_config("lets_encrypt: {force_rsa: true}", "c").families == (KeyFamily.RSA,)

    def test_two_of_them_keep_their_order(self) -> None:
        config = parse_config(acme("key_type: [rsa-2048, ecdsa-p384]"), "c")
        assert config.cas[0].key_types == (KeyType.RSA_2048, KeyType.ECDSA_P384)
        assert config.families == (KeyFamily.RSA, KeyFamily.ECDSA)

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("ed25519", f".key_type: {KEY_TYPES}"),
            ("[rsa-2048, rsa]", f".key_type[1]: {KEY_TYPES}"),
            ("[[rsa-2048]]", f".key_type[0]: {KEY_TYPES}"),
            ("[rsa-2048, rsa-4096]", ".key_type: must be one kind of key, or two: one ECDSA and one RSA"),
            ("[]", ".key_type: must have at least one entry"),
        ],
    )
    def test_others_are_refused(self, written: str, expected: str) -> None:
        assert only_mistake(acme(f"key_type: {written}")) == f"2: acme[0]{expected}"

    @pytest.mark.parametrize(
        "others",
        [
            ("key_type: ecdsa-p256", "key_type: rsa-2048"),
            ("email: a@b.c", "key_type: rsa-2048"),
            ("key_type: [ecdsa-p256, rsa-2048]", "key_type: [rsa-2048, ecdsa-p256]"),
            ("key_type: [ecdsa-p256, rsa-2048]", "email: a@b.c"),
        ],
    )
    def test_cas_whose_certificates_would_not_take_the_same_place(self, others: tuple[str, str]) -> None:
        assert only_mistake(acme(*others)) == f"3: acme[1].key_type: {FAMILIES}"

    def test_the_switch_is_seen_there_too(self) -> None:
        switch = "lets_encrypt: {force_rsa: true}"
        assert only_mistake(acme("email: a@b.c", "key_type: ecdsa-p256") + switch) == f"3: acme[1].key_type: {FAMILIES}"
        cas(acme("email: a@b.c", "key_type: rsa-4096") + switch)

    def test_sizes_may_differ(self) -> None:
        cas(acme("key_type: [ecdsa-p256, rsa-2048]", "key_type: [ecdsa-p384, rsa-4096]"))


class TestEab:
    """External account binding: a secret in one of three places."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "key"
        file.write_text(f"{SECRET}\r\n")
        return file

    def test_the_key_is_found_wherever_it_stands(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HMAC_KEY", SECRET)
        for form in (f"hmac_key: {SECRET}", f"hmac_key_file: '{file}'", "hmac_key_env: HMAC_KEY"):
            (ca,) = cas(acme(f"eab: {{kid: 2024, {form}}}"))
            assert ca.eab is not None
            assert (ca.eab.kid, ca.eab.secret.get_secret_value()) == ("2024", SECRET)

    def test_the_key_never_shows(self, file: Path) -> None:
        for form in (f"hmac_key: {SECRET}", f"hmac_key_file: '{file}'"):
            config = parse_config(acme(f"eab: {{kid: a, {form}}}"), "c")
            assert SECRET not in repr(config)
            assert SECRET not in str(config)

    def test_nor_in_an_error(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Config.model_validate(
                {"acme": [{"directory_url": "https://a", "eab": {"kid": "a", "hmac_key": "hunter2+"}}]}
            )
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("form", "expected"),
        [
            ("kid: a", f": {ONE_KEY}"),
            (f"kid: a, hmac_key: {SECRET}, hmac_key_env: HMAC_KEY", f": {ONE_KEY}"),
            (f"hmac_key: {SECRET}", ".kid: this key is required"),
            ("kid: a, hmac_key: [x]", ".hmac_key: must be text, not a list or a section"),
            ("kid: a, hmac_key: 'a+b='", f".hmac_key: {BASE64URL}"),
            ("kid: a, hmac_key: abcde", f".hmac_key: {BASE64URL}"),
            ("kid: a, hmac_key_env: NOWHERE", ".hmac_key_env: the environment variable is not set, or empty"),
            ("kid: a, hmac_key_env: 'A=B'", ".hmac_key_env: the environment variable is not set, or empty"),
            ("kid: a, hmac_key_file: /nowhere", ".hmac_key_file: the file can't be read: no such file or directory"),
            ("kid: a, hmac_key_file: /dev/zero", ".hmac_key_file: the file can't be read: it is a device, not a "
             "regular file"),
            ('kid: a, hmac_key_file: "a\\0"', ".hmac_key_file: holds a line break, a control character or another "
             "character that can't be seen"),
        ],
    )  # fmt: skip
    def test_mistakes(self, form: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HMAC_KEY", SECRET)
        assert only_mistake(acme(f"eab: {{{form}}}")) == f"2: acme[0].eab{expected}"

    def test_a_file_must_be_text_in_base64url(self, file: Path) -> None:
        text = acme(f"eab: {{kid: a, hmac_key_file: '{file}'}}")
        file.write_bytes(b"\xff")
        assert only_mistake(text) == "2: acme[0].eab.hmac_key_file: the file is not UTF-8 text"
        file.write_text("not it")
        assert only_mistake(text) == f"2: acme[0].eab.hmac_key_file: {BASE64URL}"
        file.write_bytes(bytes(4097))
        assert only_mistake(text) == "2: acme[0].eab.hmac_key_file: the file is larger than 4 KiB, which no secret is"
        file.write_bytes(b"")
        assert only_mistake(text) == "2: acme[0].eab.hmac_key_file: the file is empty"

    @pytest.mark.parametrize("padded", ["YQ", "YQ==", "YWI", "YWI=", "YWJj", "-_-_"])
    def test_padding_is_as_you_like(self, padded: str) -> None:
        cas(acme(f"eab: {{kid: a, hmac_key: '{padded}'}}"))


class TestLimits:
    """What the CA allows."""

    def test_those_of_lets_encrypt_are_known(self) -> None:
        limits = Config().cas[0].limits
        assert (limits.new_orders, limits.per_registered_domain) == ((300, 10_800), (50, 604_800))
        assert (limits.per_exact_set, limits.failed_authorizations) == ((5, 604_800), (5, 3600))
        assert cas(f"acme: [{{directory_url: '{LETS_ENCRYPT}'}}]")[0].limits == limits

    @pytest.mark.parametrize("text", ["lets_encrypt: {staging: true}", f"acme: [{{{CA}}}]"])
    def test_others_have_none(self, text: str) -> None:
        assert cas(text)[0].directory_url in (LETS_ENCRYPT_STAGING, "https://ca.example.com")
        assert set(cas(text)[0].limits.model_dump().values()) == {None}

    def test_one_that_is_given_leaves_the_others_as_they_are(self) -> None:
        text = f"acme: [{{directory_url: '{LETS_ENCRYPT}', limits: {{new_orders: 9/1m, per_exact_set: off, }}}}]"
        limits = cas(text)[0].limits
        assert (limits.new_orders, limits.per_exact_set) == ((9, 60), None)
        assert (limits.per_registered_domain, limits.failed_authorizations) == ((50, 604_800), (5, 3600))

    @pytest.mark.parametrize("empty", ["limits: ", "limits: {}", "limits: {new_orders: }"])
    def test_an_empty_value_counts_as_left_out(self, empty: str) -> None:
        assert cas(f"acme: [{{directory_url: '{LETS_ENCRYPT}', {empty}}}]")[0].limits == Config().cas[0].limits

    def test_mistakes_at_lets_encrypt_are_told_as_elsewhere(self) -> None:
        for url in (LETS_ENCRYPT, "https://ca.example.com"):
            assert mistakes(f"acme: [{{directory_url: '{url}', limits: {{new_orders: many, x: 1/1s}}}}]") == [
                f"1: acme[0].limits.new_orders: {RATE}",
                "1: acme[0].limits.x: unknown key; the keys here are new_orders, per_registered_domain, per_exact_set, "
                "failed_authorizations",
            ]
            assert only_mistake(f"acme: [{{directory_url: '{url}', limits: [x]}}]") == (
                "1: acme[0].limits: must be a section with keys of its own"
            )
