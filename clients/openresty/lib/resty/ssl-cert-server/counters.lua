-- What an instance did, summed over the workers. Counting is an addition to a table; a timer carries the sums over.

local pairs, setmetatable = pairs, setmetatable

local GAUGE_TTL = 10  -- seconds after which a worker that is gone no longer counts

local _M = {}
local mt = { __index = _M }

-- name: what it counts.
local NAMES = {
    "lru_hits",        -- handshakes served from the worker's memory
    "dict_hits",       -- from the shared dictionary
    "misses",          -- handshakes for names without a certificate here
    "fallbacks",       -- handshakes that got nginx's own certificate, for want of one
    "refused",         -- handshakes for names that allow_domain did not allow
    "invalid",         -- handshakes with an SNI that is no host name
    "stapled",         -- handshakes that were given a staple
    "requests",        -- questions to the server about certificates and staples
    "not_modified",    -- answered with 304
    "refreshes",       -- certificates asked for again
    "errors",          -- questions without a usable answer
    "staples",         -- staples received
    "changes",         -- names that the server said had changed
    "resets",          -- times it said that any may have
    "polls",           -- answers to the question for changes
}


function _M.new(dict, prefix)
    local self = setmetatable({ dict = dict, prefix = prefix .. "count:" }, mt)
    local counts = {}
    for _, name in pairs(NAMES) do
        counts[name] = 0
    end
    self.counts = counts
    return self
end


-- gauges: numbers of this worker alone, by name; in status() they are summed over the workers, too.
function _M.flush(self, worker, gauges)
    for name, count in pairs(self.counts) do
        if count > 0 and self.dict:incr(self.prefix .. name, count, 0) then
            self.counts[name] = 0
        end
    end
    for name, value in pairs(gauges) do
        self.dict:safe_set(self.prefix .. name .. ":" .. worker, value, GAUGE_TTL)
    end
end


function _M.totals(self)
    local totals = {}
    for name, count in pairs(self.counts) do
        totals[name] = (self.dict:get(self.prefix .. name) or 0) + count
    end
    return totals
end


-- The sum of a gauge over all workers.
function _M.gauge(self, name, workers)
    local sum = 0
    for worker = 0, workers - 1 do
        sum = sum + (self.dict:get(self.prefix .. name .. ":" .. worker) or 0)
    end
    return sum
end


return _M
