"""Options, instances side by side, and what the README says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.nginx import LUA_PATH, CheckedNginx, Nginx, NginxUnavailableError
from tests.support.ports import free_port
from tests.support.stand_in import StandIn
from tests.support.visitors import NAME, handshake, http_get, quickly, until

SECOND_SERVER = """
server {
    listen 127.0.0.1:%d ssl;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate fallback.pem;
    ssl_certificate_key fallback.key;
    ssl_certificate_by_lua_block { second:ssl_certificate() }
}
"""


async def test_two_instances_with_one_dictionary_do_not_meet(prefix: Path) -> None:
    port = free_port()
    async with StandIn() as server, StandIn() as other:
        init = f"""
            second = (require "resty.ssl-cert-server"):new({{
                backend = "{other.backend}", allow_domain = function() return true end, disable_stapling = true,
                lru_maxitems = 100, shared_dict = "ssl_certs_cache",
            }})
        """
        async with CheckedNginx(prefix, backend=server.backend, init=init, servers=SECOND_SERVER % port) as nginx:
            for _ in range(5):
                assert await handshake(nginx.https_port) == server.pairs[NAME].der
                assert await handshake(port) == other.pairs[NAME].der
            assert server.pairs[NAME].der != other.pairs[NAME].der
            assert len(server.requests) == len(other.requests) == 1
            await server.stop()
            assert await quickly(port, "new.example.com") == other.pairs["new.example.com"].der


async def test_a_reload_keeps_what_is_cached(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        der = await handshake(nginx.https_port)
        nginx.reload()
        await until(lambda: nginx.error_log.count("start worker process ") >= 4)
        for _ in range(10):
            assert await quickly(nginx.https_port) == der
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("lru_maxitem = 100,", "unknown option 'lru_maxitem'"),
        ('lru_maxitems = "100",', "option 'lru_maxitems' must be a number"),
        ("wait_timeout = 0,", "option 'wait_timeout' must be greater than 0"),
        ('shared_dict = "nowhere",', "nginx.conf has no `lua_shared_dict nowhere 1m;`"),
        ('backend = "https://127.0.0.1:1",', "needs the option 'server_name'"),
        ('backends = { "127.0.0.1:1" },', "'backend' and 'backends' exclude each other"),
        ('client_cert = "fallback.pem",', "'client_cert' and 'client_key' go together"),
        ('client_cert = "nowhere.pem", client_key = "nowhere.key",', "No such file"),
        ('token = "a b",', "option 'token' must be letters, digits"),
        ('token = "a", token_file = "b",', "'token' and 'token_file' exclude each other"),
        ('token_file = "nowhere",', "option 'token_file': nowhere: No such file"),
        ('backend = "127.0.0.1:99999",', "no such port"),
        ('backend = "a b",', "expected host:port"),
    ],
)
def test_a_mistake_in_the_options_is_told_at_start(prefix: Path, options: str, message: str) -> None:
    nginx = Nginx(prefix, backend="127.0.0.1:1", options=options)
    with pytest.raises(NginxUnavailableError) as caught:
        nginx.start()
    assert message in str(caught.value)
    assert "nginx.conf:" in str(caught.value), "the error points at the line that is wrong"


async def test_the_configuration_in_the_readme_works(prefix: Path) -> None:
    readme = LUA_PATH.parent / "README.md"
    block = readme.read_text().partition("```nginx\n")[2].partition("```")[0]
    paths = "".join(f"{kind}_temp_path temp/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    changes = {
        "load_module /usr/lib/nginx/modules/ndk_http_module.so;": "@MODULES@",
        "load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;": "daemon off; pid nginx.pid; error_log error.log;",
        "user www-data;": "@USER@",
        "http {": 'http {\naccess_log off; client_body_temp_path temp/body; lua_package_path "@LUA_PATH@/?.lua;;";'
        + paths,
        "127.0.0.1:8999": "@BACKEND@",
        "listen 443 ssl;": "listen 127.0.0.1:@HTTPS_PORT@ ssl;",
        "listen 80;": "listen 127.0.0.1:@HTTP_PORT@;",
        "/etc/nginx/fallback": "fallback",
    }
    for before, after in changes.items():
        assert before in block
        block = block.replace(before, after)
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, template=block) as nginx:
        assert await handshake(nginx.https_port) == server.pairs[NAME].der
        assert await quickly(nginx.https_port, "www-example.com") == nginx.fallback_der
        server.tokens["token"] = "token.thumbprint"
        status, body = await http_get(nginx.http_port, "/.well-known/acme-challenge/token", NAME)
        assert (status, body) == (200, b"token.thumbprint")


def test_every_option_is_in_the_readme() -> None:
    source = (
        (LUA_PATH / "resty" / "ssl-cert-server.lua").read_text().partition("local OPTIONS = {")[2].partition("\n}")[0]
    )
    rows = [line for line in (LUA_PATH.parent / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert sorted(line.split()[0] for line in source.strip().splitlines()) == sorted(row.split("`")[1] for row in rows)


def test_luacheck_has_nothing_to_say() -> None:
    luacheck = shutil.which("luacheck")
    assert luacheck, "install luacheck (Debian: lua-check)"
    done = subprocess.run(
        [luacheck, "--no-color", "lib"], cwd=LUA_PATH.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_described_for_opm() -> None:
    lines = (LUA_PATH.parent / "dist.ini").read_text().splitlines()
    fields = dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith("#"))
    mandatory = {"name", "abstract", "author", "license", "is_original", "repo_link"}
    assert mandatory <= fields.keys()
    assert (LUA_PATH.parent / fields["main_module"]).is_file()
    source = (LUA_PATH.parent / fields["main_module"]).read_text()
    assert f'_VERSION = "{fields["version"]}"' in source


def test_every_counter_is_explained() -> None:
    source = (LUA_PATH / "resty" / "ssl-cert-server" / "counters.lua").read_text()
    names = source.partition("local NAMES = {")[2].partition("\n}")[0]
    page = (LUA_PATH.parents[2] / "docs" / "openresty.md").read_text().partition("| counter |")[2]
    for line in names.strip().splitlines():
        assert f"`{line.split(chr(34))[1]}`" in page
