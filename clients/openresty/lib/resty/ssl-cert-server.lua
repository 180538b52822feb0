-- The nginx client of ssl-cert-server: gives each TLS handshake the certificate of its name.
--
-- Three levels: the worker's LRU of parsed certificates, the shared dictionary, and the server. A handshake never
-- talks to the server itself: it waits for a job in a timer, so that a visitor who hangs up takes no request or lock
-- along. Only a name that no worker has seen waits at all; a certificate past its ttl is served while one job asks for
-- a newer one.
--
-- In ssl-cert-server/: names, log, counters and token (plain); certificate (parsing, checking) and handshake (to
-- nginx), with openssl; locks, journal and store (what the workers share); backend, http and client (the wire); jobs
-- and background (timers); fetcher (from the wire into the store), changes (what the server says is new), status.

local backends = require "resty.ssl-cert-server.backend"
local background = require "resty.ssl-cert-server.background"
local certificate = require "resty.ssl-cert-server.certificate"
local changes = require "resty.ssl-cert-server.changes"
local clienthello = require "ngx.ssl.clienthello"
local clients = require "resty.ssl-cert-server.client"
local counters = require "resty.ssl-cert-server.counters"
local fetchers = require "resty.ssl-cert-server.fetcher"
local handshake = require "resty.ssl-cert-server.handshake"
local journals = require "resty.ssl-cert-server.journal"
local locks = require "resty.ssl-cert-server.locks"
local loggers = require "resty.ssl-cert-server.log"
local names = require "resty.ssl-cert-server.names"
local openssl = require "resty.ssl-cert-server.openssl"
local ssl = require "ngx.ssl"
local status = require "resty.ssl-cert-server.status"
local stores = require "resty.ssl-cert-server.store"
local tokens = require "resty.ssl-cert-server.token"

local ngx = ngx
local ERR, WARN, NOTICE, INFO = ngx.ERR, ngx.WARN, ngx.NOTICE, ngx.INFO
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local concat = table.concat
local error, ipairs, pairs, pcall = error, ipairs, pairs, pcall
local setmetatable, tostring, type = setmetatable, tostring, type
local floor, max, min = math.floor, math.max, math.min
local install = handshake.install
local now = ngx.now
local open = io.open
local server_name = ssl.server_name

local TICK = 0.2                -- seconds between a worker's looks at what the others told
local MAX_FAILURE_TTL = 60
local ALPN = 16                 -- the TLS extension's number
local ACME_TLS = "acme-tls/1"
local TOKEN_LENGTH = 256        -- characters of a challenge's token, at most
local CHALLENGE_TIMEOUT = 5     -- seconds; a CA waits about 10
local CHALLENGE_BODY = 8192     -- bytes
local MAX_BACKENDS = 16
local MAX_PEM = 256 * 1024      -- bytes

---What `new` returns: one per set of servers, for as long as nginx runs.
---@class SslCertServer
---@field private allow_domain fun(domain: string): boolean
local _M = { _VERSION = "0.2.0" }
local mt = { __index = _M }

---@class SslCertServerOptions
---@field backend? string `host:port`, `http://host:port`, `https://host:port` or `unix:/path`
---@field backends? string[] several of these, tried in turn; in place of `backend`
---@field server_name? string the name in the server's certificate; the backend's host by default
---@field client_cert? string path of a PEM file, for https
---@field client_key? string path of its key
---@field token? string what the server knows this client by
---@field token_file? string path of a file that holds it; read again when it changes
---@field allow_domain? fun(domain: string): boolean whether to serve a name, which is lower-case and valid
---@field lru_maxitems? number certificates that each worker keeps
---@field shared_dict? string name of the `lua_shared_dict`
---@field wait_timeout? number seconds a visitor waits for a name's first certificate
---@field fetch_timeout? number seconds one request to the server may take
---@field connect_timeout? number seconds
---@field failure_ttl? number seconds a failed name is not asked for again
---@field max_fetches? number requests for new names that a worker has under way
---@field disable_stapling? boolean

-- Each with its type and default.
local OPTIONS = {
    backend = { "string" },
    backends = { "table" },
    server_name = { "string" },
    client_cert = { "string" },
    client_key = { "string" },
    token = { "string" },
    token_file = { "string" },
    allow_domain = { "function", function() return false end },
    lru_maxitems = { "number", 1000 },
    shared_dict = { "string", "ssl_certs_cache" },
    wait_timeout = { "number", 10 },
    fetch_timeout = { "number", 60 },
    connect_timeout = { "number", 2 },
    failure_ttl = { "number", 5 },
    max_fetches = { "number", 64 },
    disable_stapling = { "boolean", false },
}
local DEFAULT_BACKEND = "127.0.0.1:8999"


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
        if value ~= nil and type(value) ~= rule[1] then
            return nil, "option '" .. key .. "' must be a " .. rule[1]
        end
        if rule[1] == "number" and not (value > 0 and value < 1e9) then
            return nil, "option '" .. key .. "' must be greater than 0"
        end
        options[key] = value
    end
    return options
end


local function list_backends(options)
    local list = options.backends or { options.backend or DEFAULT_BACKEND }
    if options.backends and options.backend then
        return nil, "'backend' and 'backends' exclude each other"
    end
    if #list < 1 or #list > MAX_BACKENDS then
        return nil, "option 'backends' must be a list of 1 to " .. MAX_BACKENDS .. " addresses"
    end
    for index, text in ipairs(list) do
        if type(text) ~= "string" then
            return nil, "option 'backends': number " .. index .. " must be a string"
        end
    end
    return list
end


local function read_file(path)
    local file, err = open(path, "rb")
    if not file then
        return nil, tostring(err)
    end
    local text = file:read(MAX_PEM)
    file:close()
    return text or ""
end


-- The parsed client certificate and key, both nil where there are none; or nil, nil and an error.
local function read_client_pair(options)
    if not options.client_cert and not options.client_key then
        return
    end
    if not options.client_cert or not options.client_key then
        return nil, nil, "'client_cert' and 'client_key' go together"
    end
    local cert, key, err
    cert, err = read_file(options.client_cert)
    if cert then
        key, err = read_file(options.client_key)
    end
    if not key then
        return nil, nil, "client certificate: " .. err
    end
    local chain, parsed = certificate.parse_pair(cert, key)
    if not chain then
        return nil, nil, "client certificate: " .. parsed
    end
    return chain, parsed
end


-- What sets an instance apart from others in a dictionary: whom it asks, and as whom.
local function identify(list, options)
    return sub(ngx.md5(concat({
        concat(list, " "), options.token or "", options.token_file or "", options.client_cert or "",
        options.server_name or "",
    }, "\n")), 1, 12)
end


local function build_client(options, list, dict, prefix, id, log)
    local cert, key, err = read_client_pair(options)
    if err then
        return nil, err
    end
    local token
    token, err = tokens.new(options.token, options.token_file, log)
    if not token then
        return nil, err
    end
    local members = {}
    for index, text in ipairs(list) do
        members[index], err = backends.new(text, {
            dict = dict, prefix = prefix, pool = id, connect_timeout = options.connect_timeout,
            server_name = options.server_name, client_cert = cert, client_key = key,
        })
        if not members[index] then
            return nil, err
        end
    end
    return clients.new({ members = members, dict = dict, prefix = prefix, token = token, log = log })
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
    local list
    list, err = list_backends(options)
    if not list then
        return nil, err
    end
    local log = loggers.new()
    local id = identify(list, options)
    local prefix = "scs2:" .. id .. ":"
    local client
    client, err = build_client(options, list, dict, prefix, id, log)
    if not client then
        return nil, err
    end

    local lru_maxitems = max(1, floor(options.lru_maxitems))
    local failure_ttl = min(options.failure_ttl, MAX_FAILURE_TTL)
    local counter, journal, lock = counters.new(dict, prefix), journals.new(dict, prefix), locks.new(dict, prefix)
    local store = stores.new({
        dict = dict, dict_name = options.shared_dict, prefix = prefix, lru_maxitems = lru_maxitems, log = log,
        stapling = not options.disable_stapling, journal = journal, locks = lock,
    })
    local fetcher = fetchers.new({
        client = client, store = store, locks = lock, log = log, counts = counter.counts,
        max_fetches = max(1, floor(options.max_fetches)),
        wait_timeout = options.wait_timeout, fetch_timeout = options.fetch_timeout, failure_ttl = failure_ttl,
    })
    local tasks = background.new(log)
    return {
        allow_domain = options.allow_domain, failure_ttl = failure_ttl, lru_maxitems = lru_maxitems,
        dict = dict, client = client, store = store, entries = store.entries, fetcher = fetcher, log = log,
        journal = journal, counters = counter, counts = counter.counts, background = tasks,
        changes = changes.new({
            client = client, store = store, locks = lock, journal = journal, fetcher = fetcher, background = tasks,
            log = log, counts = counter.counts, dict = dict, prefix = prefix,
        }),
    }
end


---For init_by_lua*: `require("resty.ssl-cert-server").new({ backend = ..., allow_domain = ... })`.
---A mistake in the options is an error that stops nginx.
---All state is the instance's. Instances that ask the same servers as the same client share what is in the dictionary;
---others never meet.
---@param options SslCertServerOptions
---@return SslCertServer
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


local function tick(premature, self)
    if premature then
        return
    end
    self.store:catch_up(function(name)
        self.fetcher:refresh(name)
    end)
    local fetching, waiting = self.fetcher:load()
    self.counters:flush(ngx.worker.id() or 0, {
        entries = self.entries:count(), fetching = fetching, waiting = waiting,
    })
    if self.changes:tick() then
        self.client:look_after()
    end
end


---Optional, for init_worker_by_lua*: starts what runs in the background of this worker. The first handshake does, too.
function _M.init_worker(self)
    if not self.started then
        self.started = true
        self.journal:join()
        local ok, err = ngx.timer.every(TICK, tick, self)
        if not ok then
            self.started = false
            self.log(ERR, "timer", "no timer for the background work: ", tostring(err))
        end
    end
end


local function is_allowed(self, name)
    local ok, answer = pcall(self.allow_domain, name)
    if ok and answer then
        return true
    end
    self.counts.refused = self.counts.refused + 1
    if not ok then
        self.log(ERR, "allow", name, ": allow_domain failed: ", tostring(answer))
    else
        self.log(INFO, "refuse", name, ": not allowed by allow_domain")
    end
    return false
end


-- The entry, from the first place that has it; or nil and why there is none.
local function find_entry(self, name)
    local counts, store = self.counts, self.store
    local own = self.entries:get(name)
    if own and own.check_at > now() then
        counts.lru_hits = counts.lru_hits + 1
        return own
    end
    local entry, wanted = store:update(name, own)
    if entry then
        local source = own and "lru_hits" or "dict_hits"
        counts[source] = counts[source] + 1
        if wanted then
            self.fetcher:refresh(name)
        end
        return entry
    end
    counts.misses = counts.misses + 1
    local failure = store:failure(store.certificate_key(name))
    if failure then
        return nil, failure
    end
    return self.fetcher:fetch(name)
end


-- Only the part that nginx refused is given up, and asked for again.
local function give_up(self, name, entry, part)
    local family = part ~= entry and part.family or nil
    self.store:drop(name, family)
    self.store:save_failure(self.store.certificate_key(name, family), "nginx refused the certificate", self.failure_ttl)
end


local function serve(self, name, entry)
    local stapled, err, refused = install(entry)
    if stapled then
        self.counts.stapled = self.counts.stapled + 1
    elseif stapled == nil then
        self.counts.fallbacks = self.counts.fallbacks + 1
    end
    if err then
        self.log(ERR, "install", name, ": nginx refused the certificate: ", tostring(err))
    end
    if refused then
        give_up(self, name, entry, refused)
    end
end


-- For all but the plainest case.
local function serve_other(self, sni)
    self:init_worker()
    if openssl.note_level then
        openssl.note_level()
    end
    local name = names.normalise(sni)
    if not name then
        self.counts.invalid = self.counts.invalid + 1
        self.log(INFO, "sni", "the SNI is not a host name")
        return
    end
    if not is_allowed(self, name) then
        return
    end
    local ok, entry, err = pcall(find_entry, self, name)
    if ok and entry then
        return serve(self, name, entry)
    end
    self.counts.fallbacks = self.counts.fallbacks + 1
    self.log(NOTICE, "fallback", name, ": nginx's own certificate is served: ", tostring(ok and err or entry))
end


---For ssl_certificate_by_lua*. Where there is no certificate for the name, nginx's own (`ssl_certificate`) stays.
function _M.ssl_certificate(self)
    local sni = server_name()
    if not sni then
        return
    end
    local entry = self.entries:get(sni)  -- what is a key in there is a name in its normal form
    if not entry or entry.check_at <= now() then
        return serve_other(self, sni)
    end
    if is_allowed(self, sni) then
        local counts = self.counts
        counts.lru_hits = counts.lru_hits + 1
        return serve(self, sni, entry)
    end
end


---For ssl_client_hello_by_lua*, optional: ends a CA's tls-alpn-01 validation at once. nginx has no means to answer it,
---and would otherwise have it wait for the very certificate it is about.
function _M.client_hello()
    local protocols = clienthello.get_client_hello_ext(ALPN)
    if not protocols or not find(protocols, ACME_TLS, 1, true) then
        return
    end
    local at = 3  -- after the list's length
    while at <= #protocols do
        local length = byte(protocols, at)
        if sub(protocols, at + 1, at + length) == ACME_TLS then
            return ngx.exit(ngx.ERROR)
        end
        at = at + 1 + length
    end
end


local function reply(code, text, kind)
    ngx.status = code
    ngx.header["Content-Type"] = kind or "text/plain"
    ngx.header["Content-Length"] = #text
    ngx.header["Cache-Control"] = "no-store"
    ngx.print(text)
    return ngx.exit(ngx.HTTP_OK)
end


---For content_by_lua* in `location /.well-known/acme-challenge/`.
function _M.challenge_server(self)
    local token = match(ngx.var.uri, "^/%.well%-known/acme%-challenge/([%w_-]+)$")
    local host = names.normalise(ngx.var.host)
    local sane = ngx.req.get_method() == "GET" and token and #token <= TOKEN_LENGTH and host
    if not sane or not is_allowed(self, host) then
        return reply(404, "not found\n")
    end
    local response, err, kind = self.client:get({
        path = "/.well-known/acme-challenge/" .. token, host = host, open = true,
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


---For content_by_lua* in a location that strangers can't reach: figures and the state of the servers, as JSON.
function _M.status(self)
    return reply(200, status.render(self), "application/json")
end


return _M
