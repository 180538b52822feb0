-- The nginx client of ssl-cert-server: gives each TLS handshake the certificate of its name.
--
-- Three levels: the worker's LRU of parsed certificates, the shared dictionary, and the server. A handshake never
-- talks to the server itself: it waits for a job in a timer, so that a visitor who hangs up takes no request or lock
-- along. Only a name that no worker has seen waits at all; a certificate past its ttl is served while one job asks for
-- a newer one.
--
-- In ssl-cert-server/: names and log (plain), certificate (parsing, checking), store (LRU, dictionary, locks),
-- backend and http (the wire), jobs (queues on timers), fetcher (from the wire into the store).

local backends = require "resty.ssl-cert-server.backend"
local certificate = require "resty.ssl-cert-server.certificate"
local fetchers = require "resty.ssl-cert-server.fetcher"
local http = require "resty.ssl-cert-server.http"
local loggers = require "resty.ssl-cert-server.log"
local names = require "resty.ssl-cert-server.names"
local ssl = require "ngx.ssl"
local stores = require "resty.ssl-cert-server.store"

local ngx = ngx
local ERR, WARN, NOTICE, INFO = ngx.ERR, ngx.WARN, ngx.NOTICE, ngx.INFO
local byte, match, sub = string.byte, string.match, string.sub
local error, pairs, pcall, setmetatable, tostring, type = error, pairs, pcall, setmetatable, tostring, type
local floor, max, min = math.floor, math.max, math.min
local now = ngx.now

local RECHECK = 1               -- seconds between looks for something newer than a stale certificate
local MAX_FAILURE_TTL = 60
local ALPN = 16                 -- the TLS extension's number
local TOKEN_LENGTH = 256        -- characters of a challenge's token, at most
local CHALLENGE_TIMEOUT = 5     -- seconds; a CA waits about 10
local CHALLENGE_BODY = 8192     -- bytes

local _M = { _VERSION = "0.1.0" }
local mt = { __index = _M }

-- Each with its type and default.
local OPTIONS = {
    backend = { "string", "127.0.0.1:8999" },
    allow_domain = { "function", function() return false end },
    lru_maxitems = { "number", 1000 },
    shared_dict = { "string", "ssl_certs_cache" },
    wait_timeout = { "number", 30 },
    fetch_timeout = { "number", 60 },
    connect_timeout = { "number", 2 },
    failure_ttl = { "number", 5 },
    max_fetches = { "number", 64 },
    disable_stapling = { "boolean", false },
}


local function read_options(given)
    if type(given) ~= "table" then
        return nil, "options must be a table"
    end
    for key in pairs(given) do
        if not OPTIONS[key] then
            return nil, "unknown option '" .. tostring(key) .. "'"
        end
    end
    local options = {}
    for key, rule in pairs(OPTIONS) do
        local value = given[key]
        if value == nil then
            value = rule[2]
        end
        if type(value) ~= rule[1] then
            return nil, "option '" .. key .. "' must be a " .. rule[1]
        end
        if rule[1] == "number" and not (value > 0 and value < 1e9) then
            return nil, "option '" .. key .. "' must be greater than 0"
        end
        options[key] = value
    end
    return options
end


local function build(given)
    local options, err = read_options(given)
    if not options then
        return nil, err
    end
    local dict = ngx.shared[options.shared_dict]
    if not dict then
        return nil, "nginx.conf has no `lua_shared_dict " .. options.shared_dict .. " 1m;`"
    end
    local backend
    backend, err = backends.new(options.backend, dict, options.connect_timeout)
    if not backend then
        return nil, err
    end
    local log = loggers.new()
    local store = stores.new({
        dict = dict, dict_name = options.shared_dict, prefix = "scs1:" .. backend.key .. ":",
        lru_maxitems = max(1, floor(options.lru_maxitems)), log = log,
    })
    local failure_ttl = min(options.failure_ttl, MAX_FAILURE_TTL)
    local fetcher = fetchers.new({
        backend = backend, store = store, log = log, max_fetches = max(1, floor(options.max_fetches)),
        wait_timeout = options.wait_timeout, fetch_timeout = options.fetch_timeout, failure_ttl = failure_ttl,
    })
    return {
        allow_domain = options.allow_domain, failure_ttl = failure_ttl,
        backend = backend, store = store, fetcher = fetcher, log = log,
    }
end


-- For init_by_lua*: require("resty.ssl-cert-server").new({ backend = ..., allow_domain = ... }).
-- All state is the instance's. Instances with the same backend share what is in the dictionary; others never meet.
function _M.new(options, more)
    if options == _M then
        options = more  -- called as :new()
    end
    local self, err = build(options == nil and {} or options)
    if not self then
        error("ssl-cert-server: " .. err, 2)
    end
    return setmetatable(self, mt)
end


local function is_allowed(self, name)
    local ok, answer = pcall(self.allow_domain, name)
    if not ok then
        self.log(ERR, "allow", name, ": allow_domain failed: ", tostring(answer))
        return false
    end
    if not answer then
        self.log(INFO, "refuse", name, ": not allowed by allow_domain")
        return false
    end
    return true
end


-- For an entry past its time: what a peer has fetched since, or else the same entry, and a job that asks the server.
local function revalidate(self, name, entry)
    entry.check_at = now() + RECHECK
    local record = self.store:record(name)
    if record and record.refresh_at > now() then
        if record.fingerprint ~= entry.fingerprint then
            return self.store:load(name) or entry
        end
        entry.refresh_at, entry.check_at = record.refresh_at, record.refresh_at
    elseif not self.store:failure(name) then
        self.fetcher:refresh(name)
    end
    return entry
end


local function find_entry(self, name)
    local entry = self.store:entry(name)
    if entry then
        return entry.check_at > now() and entry or revalidate(self, name, entry)
    end
    local failure = self.store:failure(name)
    if failure then
        return nil, failure
    end
    return self.fetcher:fetch(name)
end


-- For ssl_certificate_by_lua*. Where there is no certificate for the name, nginx's own (`ssl_certificate`) stays.
function _M.ssl_certificate(self)
    local sni = ssl.server_name()
    if not sni then
        return
    end
    local name = names.normalise(sni)
    if not name then
        self.log(INFO, "sni", "the SNI is not a host name")
        return
    end
    if not is_allowed(self, name) then
        return
    end
    local ok, entry, err = pcall(find_entry, self, name)
    if not ok or not entry then
        self.log(NOTICE, "fallback", name, ": nginx's own certificate is served: ", tostring(ok and err or entry))
        return
    end
    ok, err = certificate.install(entry)
    if not ok then
        self.store:drop(name)
        self.store:save_failure(name, "nginx refused the certificate", self.failure_ttl)
        self.log(ERR, "install", name, ": nginx refused the certificate: ", tostring(err))
    end
end


-- For ssl_client_hello_by_lua*, optional: ends a CA's tls-alpn-01 validation at once. nginx has no means to answer it,
-- and would otherwise have it wait for the very certificate it is about.
function _M.client_hello()
    local protocols = require("ngx.ssl.clienthello").get_client_hello_ext(ALPN)
    local at = 3  -- after the list's length
    while protocols and at <= #protocols do
        local length = byte(protocols, at)
        if sub(protocols, at + 1, at + length) == "acme-tls/1" then
            return ngx.exit(ngx.ERROR)
        end
        at = at + 1 + length
    end
end


local function reply(status, text)
    ngx.status = status
    ngx.header["Content-Type"] = "text/plain"
    ngx.header["Content-Length"] = #text
    ngx.header["Cache-Control"] = "no-store"
    ngx.print(text)
    return ngx.exit(ngx.HTTP_OK)
end


-- For content_by_lua* in `location /.well-known/acme-challenge/`.
function _M.challenge_server(self)
    local token = match(ngx.var.uri, "^/%.well%-known/acme%-challenge/([%w_-]+)$")
    local host = names.normalise(ngx.var.host)
    local sane = ngx.req.get_method() == "GET" and token and #token <= TOKEN_LENGTH and host
    if not sane or not is_allowed(self, host) then
        return reply(404, "not found\n")
    end
    local response, err, kind = http.get(self.backend, {
        path = "/.well-known/acme-challenge/" .. token, host = host,
        timeout = CHALLENGE_TIMEOUT, limit = CHALLENGE_BODY,
    })
    if response and response.status == 200 then
        return reply(200, response.body)
    end
    if response and (response.status == 404 or response.status == 400) then
        return reply(404, "not found\n")
    end
    self.log(WARN, "challenge", host, ": challenge: ", err or "the server answered " .. response.status)
    if kind == "timeout" then
        return reply(504, "the certificate server did not answer in time\n")
    end
    return reply(502, "the certificate server could not be asked\n")
end


return _M
