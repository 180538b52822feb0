-- What one worker tells the others: which names to look at again. Each reads it in a timer, so that a handshake
-- doesn't have to.

local concat = table.concat
local gmatch, match, sub = string.gmatch, string.match, string.sub
local setmetatable = setmetatable

local KEPT = 30            -- seconds; workers read it several times a second
local MAX_NOTE = 4 * 1024  -- bytes
local NOTES = 256          -- their places in the dictionary are used in turn: what expires there isn't freed for long

local _M = {}
local mt = { __index = _M }


function _M.new(dict, prefix)
    return setmetatable({ dict = dict, last_key = prefix .. "journal", prefix = prefix .. "journal:" }, mt)
end


-- To be called once in each worker before it caches anything: what was told until now doesn't concern it.
function _M.join(self)
    self.seen = self.dict:get(self.last_key) or 0
end


-- names: a list. changed: true where the server named them. What is not remembered, as the names are very many, and
-- what isn't written yet when it is read, is taken by the readers for "any name".
function _M.tell(self, names, changed)
    local text = concat(names, " ")
    local number = self.dict:incr(self.last_key, 1, 0)
    if number and #text <= MAX_NOTE then
        local note = concat({ number, changed and "changed" or "look", text }, " ")
        self.dict:set(self.prefix .. number % NOTES, note, KEPT)
    end
end


-- Calls each(name, changed) for every name told since the last call, or all() where they aren't known.
function _M.read(self, each, all)
    local last = self.dict:get(self.last_key) or 0
    local seen = self.seen
    self.seen = last
    if last < seen or last - seen > NOTES then
        return all()
    end
    for number = seen + 1, last do
        local note = self.dict:get(self.prefix .. number % NOTES) or ""
        local kind, start = match(note, "^" .. number .. " (%l+) ()")
        if not kind then
            return all()
        end
        for name in gmatch(sub(note, start), "%S+") do
            each(name, kind == "changed")
        end
    end
end


return _M
