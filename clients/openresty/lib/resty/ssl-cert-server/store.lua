-- What the workers share, and each one's parsed copy of it: certificates, failures, and the locks of fetches under way.
--
-- Everything in the dictionary expires. Failures and locks never push a certificate out of it.

local cjson = require "cjson.safe"
local lrucache = require "resty.lrucache"
local certificate = require "resty.ssl-cert-server.certificate"

local ngx = ngx
local ERR, WARN = ngx.ERR, ngx.WARN
local concat = table.concat
local match = string.match
local max = math.max
local now = ngx.now
local setmetatable, tostring, type = setmetatable, tostring, type
local sleep = ngx.sleep

local LEASE = 5            -- seconds a lock outlives a worker that died; a living one keeps renewing it
local LOCAL_FAILURES = 1000

local _M = {}
local mt = { __index = _M }


-- options: dict, dict_name, prefix (of every key), lru_maxitems, log.
function _M.new(options)
    return setmetatable({
        dict = options.dict,
        dict_name = options.dict_name,
        prefix = options.prefix,
        log = options.log,
        entries = lrucache.new(options.lru_maxitems),
        failures = lrucache.new(LOCAL_FAILURES),
        identity = match(tostring({}), "0x%x+") or tostring(now()),
        serial = 0,
    }, mt)
end


-- The record, unless it has expired.
function _M.record(self, name)
    local text = self.dict:get(self.prefix .. "cert:" .. name)
    local record = text and cjson.decode(text)
    if type(record) == "table" and record.expire_at > now() then
        return record
    end
end


local function keep(self, name, entry)
    self.entries:set(name, entry, max(1, entry.expire_at - now()))
    return entry
end


-- The entry of the shared record, parsed anew and kept.
function _M.load(self, name)
    local record = self:record(name)
    local entry = record and certificate.parse_record(record)
    return entry and keep(self, name, entry)
end


-- The entry: this worker's own, else the shared one.
function _M.entry(self, name)
    local entry = self.entries:get(name)
    if entry and entry.expire_at > now() then
        return entry
    end
    return self:load(name)
end


function _M.save(self, name, record, entry)
    local key = self.prefix .. "cert:" .. name
    local ok, err, forcible = self.dict:set(key, cjson.encode(record), max(1, record.expire_at - now()))
    if not ok then
        self.log(ERR, "store", name, ": not stored in ", self.dict_name, ": ", tostring(err))
    elseif forcible then
        self.log(WARN, "full", "lua_shared_dict ", self.dict_name, " is too small: certificates in use drop out of it")
    end
    self.failures:delete(name)
    self.dict:delete(self.prefix .. "fail:" .. name)
    return keep(self, name, entry)
end


function _M.drop(self, name)
    self.entries:delete(name)
    self.dict:delete(self.prefix .. "cert:" .. name)
end


-- Why the name lately failed, or nil.
function _M.failure(self, name)
    return self.failures:get(name) or self.dict:get(self.prefix .. "fail:" .. name)
end


-- The last quarter of the dictionary is for certificates: beyond, each worker remembers failures by itself.
function _M.save_failure(self, name, reason, ttl)
    self.failures:set(name, reason, ttl)
    if self.dict:free_space() > self.dict:capacity() / 4 then
        self.dict:safe_set(self.prefix .. "fail:" .. name, reason, ttl)
    end
end


-- A token for unlock(), or nil when another holds the lock.
function _M.lock(self, name)
    self.serial = self.serial + 1
    local token = concat({ ngx.worker.pid(), self.identity, self.serial }, ":")
    local ok, err = self.dict:safe_add(self.prefix .. "lock:" .. name, token, LEASE)
    if ok or err ~= "exists" then
        return token  -- "no memory": that two workers ask for the same name is better than that none does
    end
end


-- Keeps the lock from lapsing for as long as it is ours; for a light thread, which the holder kills.
function _M.hold(self, name, token)
    local key = self.prefix .. "lock:" .. name
    repeat
        sleep(LEASE / 3)
        local ours = self.dict:get(key) == token
        if ours then
            self.dict:expire(key, LEASE)
        end
    until not ours
end


function _M.unlock(self, name, token)
    local key = self.prefix .. "lock:" .. name
    if self.dict:get(key) == token then
        self.dict:delete(key)
    end
end


return _M
