-- What the workers share, and each one's parsed copy of it.
--
-- A key of the shared dictionary is what the server is asked for: "cert/NAME", "cert/NAME?keytype=rsa" for the other
-- key type, "ocsp/NAME?fp=FINGERPRINT". Everything in the dictionary expires but a few numbers. Failures, and the locks
-- of names, never push a certificate out of it.

local cjson = require "cjson.safe"
local lrucache = require "resty.lrucache"
local certificate = require "resty.ssl-cert-server.certificate"
local names = require "resty.ssl-cert-server.names"

local ngx = ngx
local ERR, WARN = ngx.ERR, ngx.WARN
local crc32 = ngx.crc32_short
local sub = string.sub
local floor, max, min = math.floor, math.max, math.min
local now = ngx.now
local next, pairs, setmetatable, tostring, type = next, pairs, setmetatable, tostring, type

local RECHECK = 1             -- seconds between looks for something newer than what is past its time
local LOCAL_FAILURES = 1000
local FAILURE_SHARE = 1 / 16  -- of the dictionary, at most
local FAILURE_SIZE = 512      -- bytes in it, of the longest
local MAX_REASON = 128        -- bytes of one
local NOTED = 86400           -- seconds, as no ttl is longer
local SELF_SIGNED = 100       -- the type from which on no certificate has a staple

local _M = {}
local mt = { __index = _M }


-- options: dict, dict_name, prefix (of every key), lru_maxitems, stapling, log, journal, locks.
function _M.new(options)
    return setmetatable({
        dict = options.dict, dict_name = options.dict_name, prefix = options.prefix, log = options.log,
        journal = options.journal, locks = options.locks, stapling = options.stapling,
        entries = lrucache.new(options.lru_maxitems), failures = lrucache.new(LOCAL_FAILURES),
        failure_slots = max(1, floor(options.dict:capacity() * FAILURE_SHARE / FAILURE_SIZE)),
    }, mt)
end


function _M.certificate_key(name, family)
    return "cert/" .. name .. (family and "?keytype=" .. family or "")
end


function _M.staple_key(name, fingerprint)
    return "ocsp/" .. name .. "?fp=" .. fingerprint
end


-- Records

-- The record, unless it has expired.
function _M.record(self, key)
    local text = self.dict:get(self.prefix .. key)
    local record = text and cjson.decode(text)
    if type(record) == "table" and record.expire_at > now() then
        return record
    end
end


-- True, or nil where the dictionary has no room for it.
function _M.save(self, key, record)
    local ok, err, forcible = self.dict:set(self.prefix .. key, cjson.encode(record), max(1, record.expire_at - now()))
    if not ok then
        self.log(ERR, "store", key, ": not stored in ", self.dict_name, ": ", tostring(err))
    elseif forcible then
        self.log(WARN, "full", "lua_shared_dict ", self.dict_name, " is too small: what is read least drops out")
    end
    self:forget_failure(key)
    self.dict:delete(self.prefix .. "gone:" .. key)
    return ok
end


-- Failures

-- What the workers share of them has so many places, whatever there is to remember: nginx doesn't free what has expired
-- while something older is in use. Where another key has a key's place, each worker remembers by itself.
local function failure_slot(self, key)
    return self.prefix .. "fail:" .. crc32(key) % self.failure_slots
end


-- Why the key lately failed, as all workers know it, and its place; or nil.
local function shared_failure(self, key)
    local slot = failure_slot(self, key)
    local text = self.dict:get(slot)
    if text and sub(text, 1, #key + 1) == key .. "\n" then
        return sub(text, #key + 2), slot
    end
end


-- Why the key lately failed, or nil.
function _M.failure(self, key)
    return self.failures:get(key) or (shared_failure(self, key))
end


function _M.save_failure(self, key, reason, ttl)
    self.failures:set(key, reason, ttl)
    self.dict:safe_set(failure_slot(self, key), key .. "\n" .. sub(reason, 1, MAX_REASON), ttl)
end


function _M.forget_failure(self, key)
    local _, slot = shared_failure(self, key)
    self.failures:delete(key)
    if slot then
        self.dict:delete(slot)
    end
end


-- Changes

-- What was asked for before a change was heard of, and what after, is told by a count of the times that changes were
-- heard of: clocks may be set back. It begins at the time, in milliseconds, so that it only goes up where a full
-- dictionary has lost it, and is above the times in seconds that earlier versions left in its place.
local function add_to_generation(self, count)
    local start = floor(now() * 1000)
    return self.dict:incr(self.prefix .. "generation", count, start) or start
end


-- To be kept with what is asked for from now on.
function _M.generation(self)
    return add_to_generation(self, 0)
end


-- For changes that were heard of now: what has an earlier one is to be asked for again.
function _M.next_generation(self)
    return add_to_generation(self, 1)
end


-- Notes that the server said that this name changed.
function _M.note_change(self, name, generation)
    self.dict:set(self.prefix .. "changed:" .. name, generation, NOTED)
    self:forget_failure(self.certificate_key(name))
end


-- The same for all names.
function _M.note_reset(self, generation)
    self.dict:set(self.prefix .. "reset", generation)
end


function _M.reset_at(self)
    return self.dict:get(self.prefix .. "reset") or 0
end


-- The generation of the last change that was heard of for this name alone, and for it or all.
function _M.changed_at(self, name)
    local named = self.dict:get(self.prefix .. "changed:" .. name) or 0
    return named, max(named, self:reset_at())
end


-- Whether anything is kept, or being fetched, that a change of this name could concern.
function _M.is_known(self, name)
    return self.locks:is_locked(name) or self.dict:ttl(self.prefix .. self.certificate_key(name)) ~= nil
        or self.entries:get(name) ~= nil or self:failure(self.certificate_key(name)) ~= nil
end


-- Whether a change was heard of that what is on record is older than.
function _M.is_outdated(self, name)
    local record = self:record(self.certificate_key(name))
    local _, since = self:changed_at(name)
    return record ~= nil and record.asked_at < since
end


-- Whether to ask the server for a key. since: a generation; what was asked for before won't do.
function _M.wants(self, key, record, since)
    if record and record.refresh_at > now() and record.asked_at >= since then
        return false
    end
    return self:failure(key) == nil
end


-- Entries

local function keep(self, name, entry)
    self.entries:set(name, entry, max(0.001, entry.expire_at - now()))
    return entry
end


-- Brings one part's staple up to date. Returns when to look again, and whether to ask the server.
local function update_staple(self, name, part, since)
    if not self.stapling or part.type >= SELF_SIGNED then
        return part.expire_at, false
    end
    local key = self.staple_key(name, part.fingerprint)
    local record = self:record(key)
    if record then
        certificate.attach_staple(part, record)
    elseif part.staple and part.staple_until <= now() then
        part.staple = nil
    end
    return record and min(record.refresh_at, record.expire_at) or 0, self:wants(key, record, since)
end


local function update_other(self, name, entry, record, since)
    local key = record.other and self.certificate_key(name, record.other)
    local other = key and self:record(key)
    if not other then
        entry.other = nil
        return key and 0 or entry.expire_at, key and self:wants(key, nil, since)
    end
    if not entry.other or entry.other.digest ~= certificate.digest(other) then
        entry.other = certificate.parse_record(other)
    end
    return min(other.refresh_at, other.expire_at), self:wants(key, other, since)
end


-- When none of this may be used any longer as it is.
local function must_look_at(entry)
    local at = entry.expire_at
    for _, part in pairs({ entry, entry.other }) do
        at = min(at, part.expire_at, part.staple and part.staple_until or at)
    end
    return at
end


-- Brings an entry up to date with what is on record; `entry` is nil where the worker has none. Returns the entry, or
-- nil where there is none to be had, and whether the server should be asked for any part of it.
function _M.update(self, name, entry)
    local _, since = self:changed_at(name)
    local key = self.certificate_key(name)
    local record = self:record(key)
    if record and not (entry and entry.digest == certificate.digest(record)) then
        entry = certificate.parse_record(record) or entry
    end
    if not record and entry and self.dict:get(self.prefix .. "gone:" .. key) then
        self.entries:delete(name)
        entry = nil
    end
    if not entry then
        return nil, false
    end
    local look_at, wanted = record and record.refresh_at or 0, self:wants(key, record, since)
    local function also(at, asks)
        look_at, wanted = min(look_at, at), wanted or asks
    end
    if record then
        entry.told = nil
        also(update_other(self, name, entry, record, since))
    end
    also(update_staple(self, name, entry, since))
    if entry.other then
        also(update_staple(self, name, entry.other, since))
    end
    entry.check_at = min(max(look_at, now() + RECHECK), must_look_at(entry))
    if wanted then
        entry.check_at = min(entry.check_at, now() + RECHECK)
    end
    return keep(self, name, entry), wanted
end


-- Puts an entry that was just fetched in service, also where the dictionary had no room for its record.
function _M.adopt(self, name, entry)
    return self:update(name, keep(self, name, entry))
end


-- family: as of certificate_key(), to drop that certificate alone.
function _M.drop(self, name, family)
    self.entries:delete(name)
    self.dict:delete(self.prefix .. self.certificate_key(name, family))
end


-- Takes a name out of service, in all workers as soon as they look at it again.
function _M.withdraw(self, name)
    self:drop(name)
    self.dict:set(self.prefix .. "gone:" .. self.certificate_key(name), true, NOTED)
end


-- Between workers

-- Has this worker look at the name again at the next handshake.
function _M.look_again(self, name)
    local entry = self.entries:get(name)
    if entry then
        entry.check_at = 0
    end
    self.failures:delete(self.certificate_key(name))
end


-- The names that others told, the wildcards among them replaced by names that this worker has. Where they aren't known,
-- it looks again at all that it has.
local function read_journal(self)
    local told, parents = {}, {}
    self.journal:read(function(name, changed)
        told[name] = changed or told[name] or false
        local below = names.below_wildcard(name)
        if below then
            parents[below] = true
        end
    end, function()
        local known = self.entries:get_keys()
        for index = #known, 1, -1 do  -- the least recently used first, so that they stay in that order
            self:look_again(known[index])
        end
    end)
    for _, name in pairs(next(parents) and self.entries:get_keys() or {}) do
        if parents[names.parent(name)] then
            told[name] = true
        end
    end
    return told
end


-- Does what other workers told. Calls ask(name) for names that the server said have changed, and for which there is
-- nothing on record but a certificate in this worker.
function _M.catch_up(self, ask)
    for name, changed in pairs(read_journal(self)) do
        self:look_again(name)
        local entry = changed and self.entries:get(name)
        if entry and self.dict:ttl(self.prefix .. self.certificate_key(name)) == nil then
            entry.told = true
            ask(name)
        end
    end
end


-- Whether the server said of a name that it changed, for which there is nothing on record but a certificate in this
-- worker.
function _M.was_told(self, name)
    local entry = self.entries:get(name)
    return entry ~= nil and entry.told == true
end


return _M
