from __future__ import annotations

import resource

import pytest

from ssl_cert_server.server.descriptors import bounds, raise_limit


@pytest.mark.parametrize("limit", [256, 512, 1024, 4096, 65_536, 1_048_576, 2**31])
def test_everything_in_use_leaves_descriptors_for_storage(limit: int) -> None:
    found = bounds(limit)
    assert limit - found.connections - found.tls_alpn01 >= 64
    assert found.polls <= found.waiting < found.connections
    assert found.connections - found.waiting >= found.connections // 4


@pytest.mark.parametrize("limit", [1, 16, 64, 100])
def test_with_hardly_any_there_are_some_all_the_same(limit: int) -> None:
    assert min(bounds(limit).connections, bounds(limit).polls, bounds(limit).tls_alpn01) >= 1


class TestRaising:
    """The soft limit, as the system lets it be raised."""

    @pytest.fixture
    def limits(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
        """What the system says; ``most`` is the highest that it lets the soft limit be."""
        limits = {"soft": 1024, "hard": 4096, "most": 2**40}

        def set_limit(_: int, wanted: tuple[int, int]) -> None:
            if wanted[0] == resource.RLIM_INFINITY or wanted[0] > limits["most"]:
                raise ValueError("not allowed to raise maximum limit")
            limits["soft"] = wanted[0]

        monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
        monkeypatch.setattr(resource, "setrlimit", set_limit)
        return limits

    @pytest.mark.parametrize("hard", [1024, 4096, 1_048_576])
    def test_it_becomes_the_hard_one(self, limits: dict[str, int], hard: int) -> None:
        limits["hard"] = hard
        assert raise_limit() == hard == limits["soft"]

    def test_it_stays_where_the_system_refuses(self, limits: dict[str, int]) -> None:
        limits["hard"] = resource.RLIM_INFINITY
        assert raise_limit() == 1024 == limits["soft"]

    def test_none_at_all_bounds_all_the_same(self, limits: dict[str, int]) -> None:
        limits["soft"] = limits["hard"] = resource.RLIM_INFINITY
        assert bounds(raise_limit()).connections == 16_384
