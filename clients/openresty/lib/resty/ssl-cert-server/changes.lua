-- The server's word on what changed, by long poll: one worker at a time asks for all of them.
--
-- The cursor is in the shared dictionary, and moves on once all that came with it is noted there, too: another worker
-- goes on where one ended. A server without the endpoint, or none at all, leaves it to the ttls.

local cjson = require "cjson.safe"
local names = require "resty.ssl-cert-server.names"

local ngx = ngx
local INFO, NOTICE, WARN = ngx.INFO, ngx.NOTICE, ngx.WARN
local escape_uri = ngx.escape_uri
local exiting = ngx.worker.exiting
local find, match, sub = string.find, string.match, string.sub
local max, min = math.max, math.min
local next, pairs, pcall, setmetatable, tostring, type = next, pairs, pcall, setmetatable, tostring, type
local now = ngx.now
local sleep = ngx.sleep
local spawn, wait, kill = ngx.thread.spawn, ngx.thread.wait, ngx.thread.kill

local WAIT = 30              -- seconds the server is asked to hold the question
local PATIENCE = 10          -- seconds beyond that
local BODY_LIMIT = 1024 * 1024
local MAX_CURSOR = 256       -- characters
local LONGEST_PAUSE = 5      -- seconds after failures
local ABSENT_PAUSE = 60      -- seconds until a server without the endpoint is asked again
local QUICK = 1              -- seconds: an empty answer before that is no long poll's
local AT_A_TIME = 200        -- names looked at between two breaths
local RETRY = 1              -- seconds between attempts at names that could not be refreshed, doubling to
local LONGEST_RETRY = 30     -- seconds
local RESET_RATE = 50        -- names a second, when all may have changed
local RESET_JITTER = 2       -- seconds, at most, before that: a fleet of nginx hears of it at once
local LEASE = "changes"      -- the lock of the worker that asks

local _M = {}
local mt = { __index = _M }


-- options: client, store, locks, journal, fetcher, background, log, counts, dict, prefix.
function _M.new(options)
    return setmetatable({
        client = options.client, store = options.store, locks = options.locks, journal = options.journal,
        fetcher = options.fetcher, background = options.background, log = options.log, counts = options.counts,
        dict = options.dict, prefix = options.prefix,
        cursor_key = options.prefix .. "cursor", cursor_at_key = options.prefix .. "cursor_at",
        reset_done_key = options.prefix .. "reset_done", pending = {}, fresh = {},
    }, mt)
end


-- The names in a list that may become keys; "*.example.com" among them.
local function valid_names(list)
    local valid = {}
    for _, name in pairs(list) do
        local text = type(name) == "string" and name or ""
        local below = names.below_wildcard(text)
        local normal = names.normalise(below or text)
        if normal then
            valid[#valid + 1] = (below and "*." or "") .. normal
        end
    end
    return valid
end


-- The three fields of an answer, or nil and what is wrong with it.
local function parse(body)
    local answer = cjson.decode(body)
    if type(answer) ~= "table" then
        return nil, "not a JSON object"
    end
    local cursor, list, reset = answer.cursor, answer.names, answer.reset
    if type(cursor) ~= "string" or #cursor > MAX_CURSOR or find(cursor, "[^\33-\126]") then
        return nil, "malformed cursor"
    end
    if type(list) ~= "table" or (reset ~= nil and type(reset) ~= "boolean") then
        return nil, "malformed names or reset"
    end
    return { cursor = cursor, names = valid_names(list), reset = reset or false }
end


-- All names with a certificate in the dictionary, or in this worker's memory. This locks the dictionary for a moment.
local function all_known(self)
    local found, start = {}, self.prefix .. "cert/"
    for _, key in pairs(self.dict:get_keys(0)) do
        if sub(key, 1, #start) == start then
            found[match(key, "^[^?]+", #start + 1)] = true
        end
    end
    for _, name in pairs(self.store.entries:get_keys()) do
        found[name] = true
    end
    return found
end


-- Replaces the wildcards by the known names that they stand for, and leaves out what isn't known here.
local function concerned(self, list)
    local found, parents = {}, {}
    for index, name in pairs(list) do
        local below = names.below_wildcard(name)
        if below then
            parents[below] = true
        end
        if self.store:is_known(name) then
            found[name] = true
        end
        if index % AT_A_TIME == 0 then
            sleep(0)
        end
    end
    if next(parents) then
        for name in pairs(all_known(self)) do
            if parents[names.parent(name)] then
                found[name] = true
            end
        end
    end
    return found
end


-- Starts a refresh of each name that is still outdated, and forgets the others. Returns how many there were to start.
local function attempt(self, found)
    local list, started = {}, 0
    for name in pairs(found) do
        list[#list + 1] = name
    end
    for index, name in pairs(list) do
        if self.store:is_outdated(name) then
            while not self.fetcher:has_room() do
                sleep(0.05)
            end
            self.fetcher:refresh(name)
            started = started + 1
        else
            self.pending[name] = nil
        end
        if index % AT_A_TIME == 0 then
            sleep(0)
        end
    end
    return started
end


-- Goes on until no name that changed is outdated. What fails is tried again, in longer pauses where that helps nothing.
local function feed(self)
    local pause, waited, last = RETRY, 0, nil
    while not exiting() and next(self.pending) do
        if next(self.fresh) then
            local found = self.fresh
            self.fresh = {}
            attempt(self, found)
        elseif waited >= pause and self.client:is_up() then
            local count = attempt(self, self.pending)
            pause = last and count >= last and min(2 * pause, LONGEST_RETRY) or RETRY
            last, waited = count, 0
        else
            sleep(0.05)
            waited = waited + 0.05
        end
    end
end


local function add_pending(self, found)
    for name in pairs(found) do
        self.pending[name], self.fresh[name] = true, true
    end
    self.background:start("feed", feed, self)
end


-- Goes through all that is in the dictionary, slowly. What a worker before this one has done already is up to date.
local function walk(self)
    local reset_at = self.store:reset_at()
    sleep((now() * 1000 + ngx.worker.pid() * 7919) % 1000 / 1000 * RESET_JITTER)
    for name in pairs(all_known(self)) do
        if exiting() then
            return
        end
        if self.store:is_outdated(name) then
            add_pending(self, { [name] = true })
            sleep(1 / RESET_RATE)
        end
    end
    self.dict:set(self.reset_done_key, reset_at)
end


local function walk_if_due(self)
    if self.store:reset_at() ~= (self.dict:get(self.reset_done_key) or 0) then
        self.background:start("walk", walk, self)
    end
end


-- Notes all of an answer for all workers, and for the one that goes on if this one ends; then the cursor.
local function take(self, answer, cursor)
    local generation = self.store:next_generation()
    local list = answer.names
    if #list > 0 then
        local found = concerned(self, list)
        for name in pairs(found) do
            self.store:note_change(name, generation)
        end
        self.counts.changes = self.counts.changes + #list
        self.journal:tell(list, true)  -- all of it: where the dictionary is full, another worker alone may have a name
        if next(found) then
            add_pending(self, found)
        end
    end
    -- Without a cursor there is no telling what was missed.
    if answer.reset or not cursor then
        self.counts.resets = self.counts.resets + 1
        self.store:note_reset(generation)
    end
    if answer.reset then
        self.log(NOTICE, "reset", "any certificate may have changed: all are looked at again, slowly")
    end
    self.dict:set(self.cursor_key, answer.cursor)
    walk_if_due(self)
end


-- One question. Returns the seconds to pause before the next.
local function poll(self)
    local cursor = self.dict:get(self.cursor_key)
    local start = now()
    local response, err = self.client:poll({
        path = "/v1/changes?since=" .. escape_uri(cursor or "") .. "&wait=" .. WAIT,
        timeout = WAIT + PATIENCE, limit = BODY_LIMIT,
    }, self.turn)
    local answer
    if response and response.status == 200 then
        answer, err = parse(response.body)
    end
    if answer then
        self.counts.polls = self.counts.polls + 1
        self.dict:set(self.cursor_at_key, now())
        take(self, answer, cursor)
        local quick = cursor and #answer.names == 0 and not answer.reset and now() - start < QUICK
        self.trouble = quick and self.trouble + 1 or 0
    elseif response and response.status == 404 then
        self.trouble = 0
        self.log(INFO, "changes", "the server has no /v1/changes: certificates are refreshed by their ttl")
        return ABSENT_PAUSE
    else
        self.trouble, self.turn = self.trouble + 1, self.turn + 1
        self.log(WARN, "changes", "/v1/changes: ", err or "the server answered " .. response.status)
    end
    return self.trouble == 0 and 0.02 or min(0.1 * 2 ^ self.trouble, LONGEST_PAUSE)
end


local function poll_for_ever(self)
    while true do
        local ok, pause = pcall(poll, self)
        if not ok then
            self.log(ngx.ERR, "internal", "changes: internal error: ", tostring(pause))
            pause = LONGEST_PAUSE
        end
        sleep(max(pause, 0.02))
    end
end


local function serve(self, token)
    self.trouble, self.turn = 0, 0
    local poller = spawn(poll_for_ever, self)
    local holder = spawn(self.locks.hold_while_serving, self.locks, LEASE, token)
    wait(poller, holder)
    kill(poller)
    kill(holder)
    self.locks:unlock(LEASE, token)
end


-- For a timer in every worker: becomes the one that asks where none does. True in the one that is.
function _M.tick(self)
    if self.background:is_busy("changes") then
        walk_if_due(self)
        return true
    end
    if exiting() or self.locks:is_locked(LEASE) then
        return false
    end
    local token = self.locks:lock_in_any_case(LEASE)
    return token ~= nil and self.background:start("changes", serve, self, token)
end


-- For status(): seconds since the server last answered; nil if it never did.
function _M.age(self)
    local at = self.dict:get(self.cursor_at_key)
    return at and max(0, now() - at)
end


return _M
