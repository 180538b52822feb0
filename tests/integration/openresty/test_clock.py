"""A clock that is set back."""

from __future__ import annotations

from pathlib import Path

from tests.integration.openresty.test_changes import until_everywhere, warm
from tests.support.nginx import TEMPLATE, CheckedNginx
from tests.support.stand_in import StandIn, make_pair
from tests.support.visitors import NAME, http_get

SET_BACK = """
    location = /set-back {
        content_by_lua_block { ngx.shared.skew:set("seconds", 3600) }
    }
"""
SKEWED = (
    TEMPLATE.read_text()
    .replace(
        "init_by_lua_block {",
        """
        lua_shared_dict skew 16k;
        init_by_lua_block {
            local now = ngx.now
            ngx.now = function() return now() - (ngx.shared.skew:get("seconds") or 0) end
        """,
    )
    .replace("location = /status {", SET_BACK + "location = /status {")
)


async def test_a_change_after_the_clock_was_set_back_is_in_use_at_once(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, template=SKEWED) as nginx,
    ):
        await warm(nginx, server)
        for _ in range(2):
            server.pairs[NAME] = make_pair(NAME)
            server.announce(NAME)
            await until_everywhere(nginx.https_port, server.pairs[NAME].der)
            status, _ = await http_get(nginx.http_port, "/set-back", "localhost")
            assert status == 200
