-- Locks over all workers: short leases that a living holder keeps renewing.

local ngx = ngx
local concat = table.concat
local match = string.match
local exiting = ngx.worker.exiting
local now = ngx.now
local setmetatable, tostring = setmetatable, tostring
local sleep = ngx.sleep

local LEASE = 5  -- seconds a lock outlives a worker that died

local _M = {}
local mt = { __index = _M }


-- Locks are in `dict`. Those of names, of which there may be many, never push anything else out of it.
function _M.new(dict, prefix)
    return setmetatable({
        dict = dict, prefix = prefix .. "lock:", identity = match(tostring({}), "0x%x+") or tostring(now()), serial = 0,
    }, mt)
end


local function new_token(self)
    self.serial = self.serial + 1
    return concat({ ngx.worker.pid(), self.identity, self.serial }, ":")
end


-- A token for unlock(), or nil when another holds the lock.
function _M.lock(self, name)
    local token = new_token(self)
    local ok, err = self.dict:safe_add(self.prefix .. name, token, LEASE)
    if ok or err ~= "exists" then
        return token  -- "no memory": that two workers ask for the same name is better than that none does
    end
end


-- The same for a lock that counts even where the dictionary is full.
function _M.lock_in_any_case(self, name)
    local token = new_token(self)
    return self.dict:add(self.prefix .. name, token, LEASE) and token or nil
end


function _M.is_locked(self, name)
    return self.dict:get(self.prefix .. name) ~= nil
end


-- Keeps the lock from lapsing for as long as it is ours; for a light thread, which the holder kills.
function _M.hold(self, name, token)
    local key = self.prefix .. name
    repeat
        sleep(LEASE / 3)
        local ours = self.dict:get(key) == token
        if ours then
            self.dict:expire(key, LEASE)
        end
    until not ours
end


-- As hold(), for a lock that another worker should have as soon as this one is told to end.
function _M.hold_while_serving(self, name, token)
    local key = self.prefix .. name
    repeat
        self.dict:expire(key, LEASE)
        sleep(0.2)
    until exiting() or self.dict:get(key) ~= token
end


function _M.unlock(self, name, token)
    local key = self.prefix .. name
    if self.dict:get(key) == token then
        self.dict:delete(key)
    end
end


return _M
