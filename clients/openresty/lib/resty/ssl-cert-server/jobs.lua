-- Work that outlives the handshake it began with: one job per name in a worker, done in timers, so many at a time.

local semaphore = require "ngx.semaphore"

local ngx = ngx
local now = ngx.now
local pcall, setmetatable, tostring = pcall, setmetatable, tostring
local timer_at = ngx.timer.at

local MAX_WAITING = 2048  -- jobs in a queue
local LOST_TIMER = 5      -- seconds after which a timer that did not start is given up

local _M = {}
local mt = { __index = _M }


-- options: limit (jobs at a time), perform(job) -> result, err; patience (seconds after which a job nobody began is
-- dropped, as those who waited for it are gone; nil: never).
function _M.new(options)
    return setmetatable({
        limit = options.limit, perform = options.perform, patience = options.patience,
        jobs = {}, first = 1, last = 0, running = 0, starting = 0, started_at = 0,
    }, mt)
end


local function finish(self, job, result, err)
    job.done, job.result, job.err = true, result, err
    self.jobs[job.name] = nil
    if job.waiters > 0 then
        job.semaphore:post(job.waiters)
    end
end


local function take(self)
    while self.first <= self.last do
        local job = self[self.first]
        self[self.first] = nil
        self.first = self.first + 1
        if not self.patience or now() - job.since < self.patience then
            return job
        end
        finish(self, job, nil, "too many names are waiting")
    end
end


local function run(_, self)
    if self.starting > 0 then
        self.starting = self.starting - 1
    else
        self.running = self.running + 1  -- it had been given up for lost
    end
    local job = take(self)
    while job do
        local ok, result, err = pcall(self.perform, job)
        if not ok then
            result, err = nil, "internal error: " .. tostring(result)
        end
        finish(self, job, result, err)
        job = take(self)
    end
    self.running = self.running - 1
end


-- Starts one more timer if there is something to do. Timers beyond lua_max_running_timers are dropped by nginx unsaid.
local function pump(self)
    if self.starting > 0 and now() - self.started_at > LOST_TIMER then
        self.running = self.running - self.starting
        self.starting = 0
    end
    if self.first > self.last or self.running >= self.limit then
        return
    end
    local ok, err = timer_at(0, run, self)
    if ok then
        self.running = self.running + 1
        self.starting = self.starting + 1
        self.started_at = now()
        return
    end
    local job = self.running == 0 and take(self)
    while job do  -- nobody would ever come for them
        finish(self, job, nil, "no timer: " .. tostring(err))
        job = take(self)
    end
end


-- The job for a name: the one under way, else a new one. nil and an error if there are too many.
function _M.start(self, name)
    local job = self.jobs[name]
    if job then
        pump(self)
        return job
    end
    if self.last - self.first + 1 >= MAX_WAITING then
        return nil, "too many names are waiting"
    end
    local sem, err = semaphore.new(0)
    if not sem then
        return nil, err
    end
    job = { name = name, since = now(), waiters = 0, semaphore = sem, done = false }
    self.last = self.last + 1
    self[self.last] = job
    self.jobs[name] = job
    pump(self)
    return job
end


-- How many jobs nobody has begun.
function _M.waiting(self)
    return self.last - self.first + 1
end


-- Waits for a job: its result, or nil and its error.
function _M.wait(_, job, timeout)
    if not job.done then
        job.waiters = job.waiters + 1
        job.semaphore:wait(timeout)
        job.waiters = job.waiters - 1
    end
    if job.done then
        return job.result, job.err
    end
    return nil, "no certificate within wait_timeout"
end


return _M
