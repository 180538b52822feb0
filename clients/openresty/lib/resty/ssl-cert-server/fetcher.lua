-- Brings certificates and staples from the server into the store: one request per name over all workers.

local certificate = require "resty.ssl-cert-server.certificate"
local jobs = require "resty.ssl-cert-server.jobs"

local ngx = ngx
local WARN = ngx.WARN
local match = string.match
local max, min = math.max, math.min
local now = ngx.now
local pairs, pcall, setmetatable, tostring, type = pairs, pcall, setmetatable, tostring, type
local sleep = ngx.sleep
local spawn, kill = ngx.thread.spawn, ngx.thread.kill

local CERTIFICATE_LIMIT = 256 * 1024  -- bytes; a chain of ten RSA certificates is about 20 KiB
local STAPLE_LIMIT = 64 * 1024
local REFRESHERS = 8                  -- concurrent refreshes per worker
local OTHERS = 8                      -- concurrent first requests for the other key type per worker
local MANY_REFRESHES = 500
local PROMPT_TIMEOUT = 10             -- seconds; the server answers from memory for a name it knows
local REFUSED_TTL = 60                -- seconds a 400 is believed
local MAX_RETRY_AFTER = 60

local _M = {}
local mt = { __index = _M }


local function failure_ttl(self, response)
    local after = certificate.seconds(response.headers["retry-after"])
    if after then
        return max(1, min(after, MAX_RETRY_AFTER))
    end
    return response.status == 400 and REFUSED_TTL or self.failure_ttl
end


-- The next three return a record (the first: a response), and for a certificate that is new its entry; or nil, the
-- reason, and the seconds to remember it: none where the server can't be reached, which is remembered for all names
-- together; and the status, if that was the reason.

local function request(self, key, limit, known, prompt)
    self.counts.requests = self.counts.requests + 1
    local response, err, kind = self.client:get({
        path = "/" .. key, limit = limit, prompt = prompt,
        timeout = prompt and min(self.fetch_timeout, PROMPT_TIMEOUT) or self.fetch_timeout,
        etag = known and known.etag,
    })
    if not response then
        return nil, err, kind ~= "unreachable" and self.failure_ttl or nil
    end
    return response
end


local function ask_certificate(self, key, known)
    if known then
        self.counts.refreshes = self.counts.refreshes + 1
    end
    local response, err, ttl = request(self, key, CERTIFICATE_LIMIT, known, known ~= nil)
    if not response then
        return nil, err, ttl
    end
    local record, entry
    if response.status == 200 then
        record, entry = certificate.parse_answer(response, match(key, "%?keytype=(.*)$"))
    elseif response.status == 304 and known then
        self.counts.not_modified = self.counts.not_modified + 1
        certificate.note_headers(known, response.headers)
        return known
    else
        return nil, "the server answered " .. response.status, failure_ttl(self, response), response.status
    end
    if not record then
        return nil, "unusable answer: " .. tostring(entry), self.failure_ttl
    end
    return record, entry
end


local function ask_staple(self, key, _, of)
    local response, err, ttl = request(self, key, STAPLE_LIMIT, nil, true)
    if not response then
        return nil, err, ttl
    end
    local status = response.status
    if status ~= 200 and status ~= 204 and status ~= 404 then
        return nil, "the server answered " .. status, failure_ttl(self, response)
    end
    local record
    record, err = certificate.parse_staple(response, of)
    if not record then
        return nil, "unusable staple: " .. err, self.failure_ttl
    end
    if record.der then
        self.counts.staples = self.counts.staples + 1
    end
    return record
end


-- With the name's lock

-- The server named it as changed, and then refused it: nobody may have it any longer.
local function withdraw(self, name)
    self.store:withdraw(name)
    self.store.journal:tell({ name })
    self.log(WARN, "withdraw", name, ": the server no longer permits it: its certificate is out of service")
end


local function is_news(known, record)
    return not known or known.cert ~= record.cert or known.der ~= record.der or known.other ~= record.other
end


-- Asks for a key where that is wanted. Returns the record in force, if any, and the entry or the failure.
local function bring(self, name, key, ask, of)
    local store = self.store
    local named, since = store:changed_at(name)
    local known = store:record(key)
    if not store:wants(key, known, since) then
        return known, store:failure(key)
    end
    -- A 304 leaves its mark on the record that was known.
    local before = known and { cert = known.cert, der = known.der, other = known.other }
    if known then
        -- It names the leaf alone: where a change was told, the chain may be another and the leaf the same.
        known.etag = known.cert and known.asked_at >= since and '"' .. known.fingerprint .. '"' or nil
    end
    local asked_at = store:generation()
    local record, result, ttl, status = ask(self, key, known, of)
    if record then
        record.asked_at = asked_at
        if not store:save(key, record) and result and key == store.certificate_key(name) then
            store:adopt(name, result)
        end
        -- A part that was missing is looked for once a second anyhow.
        if (before or named > 0) and is_news(before, record) then
            store.journal:tell({ name })
        end
        return record, result
    end
    self.counts.errors = self.counts.errors + 1
    if ttl then
        store:save_failure(key, result, ttl)
    end
    self.log(WARN, "fetch", key, ": ", result)
    local changed = known and named > known.asked_at or not known and store:was_told(name)
    if status == 400 and changed and key == store.certificate_key(name) then
        withdraw(self, name)
        return nil, result
    end
    if known and known.asked_at < since then
        store.journal:tell({ name })  -- so that all look, and try again once the failure is forgotten
    end
    return known, result
end


local function bring_staple(self, name, record)
    if record and self.store.stapling and record.type < 100 then
        bring(self, name, self.store.staple_key(name, record.fingerprint), ask_staple, record)
    end
end


-- The first one may have to be issued, which no refresh should wait for: it is a job of its own.
local function bring_other(self, name, key)
    if self.store:record(key) then
        bring_staple(self, name, bring(self, name, key, ask_certificate))
    elseif not self.store:failure(key) then
        self.others:start(name)
    end
end


local function refresh(self, name)
    local record, err = bring(self, name, self.store.certificate_key(name), ask_certificate)
    if record then
        bring_staple(self, name, record)
        if record.other then
            bring_other(self, name, self.store.certificate_key(name, record.other))
        end
    end
    self.store:look_again(name)
    return true, type(err) == "string" and err or nil
end


local function fetch_other(self, name)
    local store = self.store
    local record = store:record(store.certificate_key(name))
    if record and record.other then
        bring_staple(self, name, bring(self, name, store.certificate_key(name, record.other), ask_certificate))
        store:look_again(name)
    end
    return true
end


-- What made a request needless: a certificate that will do, or a failure that stands.
local function settled(self, name)
    local entry = self.store:update(name)
    if entry then
        return entry
    end
    return nil, self.store:failure(self.store.certificate_key(name))
end


local function fetch(self, name)
    local entry, failure = settled(self, name)  -- once more, now that the lock is ours
    if entry or failure then
        return entry, failure
    end
    local record, result = bring(self, name, self.store.certificate_key(name), ask_certificate)
    if not record or type(result) ~= "table" then
        return nil, result or "the record can't be used"
    end
    local wanted
    entry, wanted = self.store:adopt(name, result)
    if wanted then
        self:refresh(name)  -- for the rest
    end
    return entry
end


-- Calls work(self, name) with the lock held: the name's, or another.
local function locked(self, name, token, work, lock)
    lock = lock or name
    local holder = spawn(self.locks.hold, self.locks, lock, token)
    local ok, entry, err = pcall(work, self, name)
    kill(holder)
    self.locks:unlock(lock, token)
    if not ok then
        err = "internal error: " .. tostring(entry)
        self.log(ngx.ERR, "internal", name, ": ", err)
        return nil, err
    end
    return entry, err
end


-- Jobs

local function perform_fetch(self, name)
    local deadline = now() + self.fetch_timeout
    local pause = 0.01
    repeat
        local entry, failure = settled(self, name)
        if entry or failure then
            return entry, failure
        end
        local token = self.locks:lock(name)
        if token then
            return locked(self, name, token, fetch)
        end
        sleep(pause)
        pause = min(pause * 1.5, 0.25)
    until now() > deadline
    return nil, "another worker took too long"
end


-- Where a peer is at it, its result will be in the dictionary; but what it asked for may be older than a change that
-- was heard of since.
local function perform_refresh(self, name)
    local deadline = now() + PROMPT_TIMEOUT
    local pause = 0.01
    repeat
        local token = self.locks:lock(name)
        local _, err
        if token then
            _, err = locked(self, name, token, refresh)
        end
        if err or not self.store:is_outdated(name) then
            return
        end
        sleep(pause)
        pause = min(pause * 1.5, 0.25)
    until now() > deadline
end


-- With a lock of its own, as the name may have to be refreshed meanwhile. Where a peer is at it, its result will be in
-- the dictionary.
local function perform_other(self, name)
    local lock = "other/" .. name
    local token = self.locks:lock(lock)
    if token then
        locked(self, name, token, fetch_other, lock)
    end
end


-- options: client, store, locks, log, counts, max_fetches, and in seconds wait_timeout, fetch_timeout and failure_ttl.
function _M.new(options)
    local self = setmetatable({
        client = options.client, store = options.store, locks = options.locks, log = options.log,
        counts = options.counts, wait_timeout = options.wait_timeout, fetch_timeout = options.fetch_timeout,
        failure_ttl = options.failure_ttl,
    }, mt)
    self.visitors = jobs.new({
        limit = options.max_fetches, patience = options.wait_timeout,
        perform = function(job) return perform_fetch(self, job.name) end,
    })
    self.refreshes = jobs.new({
        limit = REFRESHERS,
        perform = function(job) return perform_refresh(self, job.name) end,
    })
    self.others = jobs.new({
        limit = OTHERS,
        perform = function(job) return perform_other(self, job.name) end,
    })
    return self
end


-- How many requests are under way, and wait for their turn.
function _M.load(self)
    local running, waiting = 0, 0
    for _, queue in pairs({ self.visitors, self.refreshes, self.others }) do
        running, waiting = running + queue.running, waiting + queue:waiting()
    end
    return running, waiting
end


-- For a name without a certificate: waits for one.
function _M.fetch(self, name)
    local job, err = self.visitors:start(name)
    if not job then
        return nil, err
    end
    return self.visitors:wait(job, self.wait_timeout)
end


-- Whether the refreshes are few enough for more that nobody waits for.
function _M.has_room(self)
    return self.refreshes:waiting() < MANY_REFRESHES
end


-- For a name with one: returns at once. nil and an error if there are too many.
function _M.refresh(self, name)
    local job, err = self.refreshes:start(name)
    if not job then
        self.log(WARN, "refresh", name, ": ", tostring(err))
        return nil, err
    end
    return true
end


return _M
