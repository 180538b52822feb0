-- What one worker tells the others: which names to look at again. Each reads it in a timer, so that a handshake
-- doesn't have to.

local gmatch = string.gmatch
local concat = table.concat
local setmetatable = setmetatable

local KEPT = 30            -- seconds; workers read it several times a second
local MAX_NOTE = 16 * 1024 -- bytes

local _M = {}
local mt = { __index = _M }


function _M.new(dict, prefix)
    return setmetatable({ dict = dict, last_key = prefix .. "journal", prefix = prefix .. "journal:" }, mt)
end


-- To be called once in each worker before it caches anything: what was told until now doesn't concern it.
function _M.join(self)
    self.seen = self.dict:get(self.last_key) or 0
end


-- names: a list. What is not remembered, as the dictionary is full or the names are very many, and what isn't written
-- yet when it is read, is taken by the readers for "any name".
function _M.tell(self, names)
    local text = concat(names, " ")
    local number = self.dict:incr(self.last_key, 1, 0)
    if number and #text <= MAX_NOTE then
        self.dict:safe_set(self.prefix .. number, text, KEPT)
    end
end


-- Calls each(name) for every name told since the last call, or all() where they aren't known.
function _M.read(self, each, all)
    local last = self.dict:get(self.last_key) or 0
    local seen = self.seen
    self.seen = last
    if last < seen or last - seen > 1000 then
        return all()
    end
    for number = seen + 1, last do
        local text = self.dict:get(self.prefix .. number)
        if not text then
            return all()
        end
        for name in gmatch(text, "%S+") do
            each(name)
        end
    end
end


return _M
