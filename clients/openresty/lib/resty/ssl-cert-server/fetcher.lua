-- Brings certificates from the server into the store: one request per name over all workers.

local certificate = require "resty.ssl-cert-server.certificate"
local http = require "resty.ssl-cert-server.http"
local jobs = require "resty.ssl-cert-server.jobs"

local ngx = ngx
local WARN = ngx.WARN
local match = string.match
local max, min = math.max, math.min
local now = ngx.now
local pcall, setmetatable, tonumber, tostring = pcall, setmetatable, tonumber, tostring
local sleep = ngx.sleep
local spawn, kill = ngx.thread.spawn, ngx.thread.kill

local BODY_LIMIT = 1024 * 1024  -- bytes; a chain of ten RSA certificates is about 20 KiB
local REFRESHERS = 8            -- concurrent refreshes per worker
local REFRESH_TIMEOUT = 10      -- seconds; the server answers from memory for a name it knows
local REFUSED_TTL = 60          -- seconds a 400 is believed
local MAX_RETRY_AFTER = 60
local DEFAULT_304_TTL = 60

local _M = {}
local mt = { __index = _M }


local function seconds(header)
    return tonumber(match(header or "", "^%d+$") or "")
end


local function failure_ttl(self, response)
    local after = seconds(response.headers["retry-after"])
    if after then
        return max(1, min(after, MAX_RETRY_AFTER))
    end
    return response.status == 400 and REFUSED_TTL or self.failure_ttl
end


-- Asks the server. known: the record we have, or nil. Returns a record and its entry; or nil, the reason, and the
-- seconds to remember it: none where the server can't be reached, which is remembered for all names together.
local function ask(self, name, known, timeout)
    local response, err, kind = http.get(self.backend, {
        path = "/cert/" .. name, timeout = timeout, limit = BODY_LIMIT,
        etag = known and '"' .. known.fingerprint .. '"',
    })
    if not response then
        return nil, err, kind ~= "unreachable" and self.failure_ttl or nil
    end
    local record, entry
    if response.status == 200 then
        record, entry = certificate.parse_answer(response.body)
    elseif response.status == 304 and known then
        known.refresh_at = certificate.refresh_at(seconds(response.headers["x-ttl"]) or DEFAULT_304_TTL)
        entry, err = certificate.parse_record(known)
        record, entry = entry and known, entry or err
    else
        return nil, "the server answered " .. response.status, failure_ttl(self, response)
    end
    if not record then
        return nil, "unusable answer: " .. tostring(entry), self.failure_ttl
    end
    return record, entry
end


-- What made a request needless: a certificate that will do, or a failure that stands.
local function settled(self, name, refresh)
    local record = self.store:record(name)
    local entry = record and (not refresh or record.refresh_at > now()) and self.store:load(name)
    if entry then
        return entry
    end
    return nil, self.store:failure(name)
end


local function fetch(self, name, refresh)
    local entry, failure = settled(self, name, refresh)  -- once more, now that the lock is ours
    if entry or failure then
        return entry, failure
    end
    local timeout = refresh and min(self.fetch_timeout, REFRESH_TIMEOUT) or self.fetch_timeout
    local record, result, ttl = ask(self, name, self.store:record(name), timeout)
    if record then
        return self.store:save(name, record, result)
    end
    if ttl then
        self.store:save_failure(name, result, ttl)
    end
    self.log(WARN, "fetch", name, ": ", result)
    return nil, result
end


local function fetch_locked(self, name, refresh, token)
    local holder = spawn(self.store.hold, self.store, name, token)
    local ok, entry, err = pcall(fetch, self, name, refresh)
    kill(holder)
    self.store:unlock(name, token)
    if not ok then
        err = "internal error: " .. tostring(entry)
        self.log(ngx.ERR, "internal", name, ": ", err)
        return nil, err
    end
    return entry, err
end


local function perform(self, name, refresh)
    local deadline = now() + self.fetch_timeout
    local pause = 0.01
    repeat
        local entry, failure = settled(self, name, refresh)
        if entry or failure then
            return entry, failure
        end
        local token = self.store:lock(name)
        if token then
            return fetch_locked(self, name, refresh, token)
        end
        if refresh then
            return nil  -- a peer is at it, and its result will be in the dictionary
        end
        sleep(pause)
        pause = min(pause * 1.5, 0.25)
    until now() > deadline
    return nil, "another worker took too long"
end


-- options: backend, store, log, max_fetches, and in seconds wait_timeout, fetch_timeout and failure_ttl.
function _M.new(options)
    local self = setmetatable({
        backend = options.backend, store = options.store, log = options.log,
        wait_timeout = options.wait_timeout, fetch_timeout = options.fetch_timeout, failure_ttl = options.failure_ttl,
    }, mt)
    self.visitors = jobs.new({
        limit = options.max_fetches, patience = options.wait_timeout,
        perform = function(job) return perform(self, job.name, false) end,
    })
    self.refreshes = jobs.new({
        limit = REFRESHERS,
        perform = function(job) return perform(self, job.name, true) end,
    })
    return self
end


-- For a name without a certificate: waits for one.
function _M.fetch(self, name)
    local job, err = self.visitors:start(name)
    if not job then
        return nil, err
    end
    return self.visitors:wait(job, self.wait_timeout)
end


-- For a name with one: returns at once.
function _M.refresh(self, name)
    local job, err = self.refreshes:start(name)
    if not job then
        self.log(WARN, "refresh", name, ": ", tostring(err))
    end
end


return _M
