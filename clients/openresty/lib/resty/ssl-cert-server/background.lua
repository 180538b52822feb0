-- Things of which a worker has one at a time under way, each in a timer.

local ngx = ngx
local now = ngx.now
local pcall, setmetatable, tostring = pcall, setmetatable, tostring
local timer_at = ngx.timer.at

local LOST_TIMER = 5  -- seconds after which a timer that did not start is given up

local _M = {}
local mt = { __index = _M }


function _M.new(log)
    return setmetatable({ log = log, tasks = {} }, mt)
end


function _M.is_busy(self, what)
    local task = self.tasks[what]
    return task ~= nil and (task.began or now() - task.since < LOST_TIMER)
end


-- Calls work(...) in a timer, unless it is under way. True if it was started.
function _M.start(self, what, work, ...)
    if self:is_busy(what) then
        return false
    end
    local task = { since = now(), began = false }
    local ok = timer_at(0, function(premature, ...)
        task.began = true
        if not premature then
            local done, err = pcall(work, ...)
            if not done then
                self.log(ngx.ERR, "internal", what, ": internal error: ", tostring(err))
            end
        end
        if self.tasks[what] == task then
            self.tasks[what] = nil
        end
    end, ...)
    if ok then
        self.tasks[what] = task
    end
    return ok == true
end


return _M
