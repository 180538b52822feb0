-- Asks the certificate servers: one after the other until one answers, and that one first the next time.

local background = require "resty.ssl-cert-server.background"
local http = require "resty.ssl-cert-server.http"

local now = ngx.now
local ipairs, setmetatable = ipairs, setmetatable

local HEALTH_TIMEOUT = 2  -- seconds
local HEALTH_BODY = 65536

local _M = {}
local mt = { __index = _M }

-- What a proxy says of a server behind it, or a server of itself while it can't serve. A 500 is about one name.
local SICK = { [502] = true, [503] = true, [504] = true }


-- options: members (list of backends), dict, prefix (of its keys), token (its source), log.
function _M.new(options)
    return setmetatable({
        members = options.members, dict = options.dict, token = options.token, key = options.prefix .. "current",
        probes = background.new(options.log),
    }, mt)
end


-- The number of the member that answered last.
function _M.current(self)
    local index = #self.members > 1 and self.dict:get(self.key) or 1
    return self.members[index] and index or 1
end


-- Whether any member is in good health, as far as is known.
function _M.is_up(self)
    for _, backend in ipairs(self.members) do
        if backend:failures() == 0 then
            return true
        end
    end
    return false
end


local function send(self, backend, request, deadline)
    request.token = not request.open and self.token:get() or nil
    local response, err, kind = http.get(backend, request, deadline)
    if response and response.status == 401 and request.token and self.token:reload() then
        request.token = self.token:get()
        response, err, kind = http.get(backend, request, deadline)
    end
    return response, err, kind
end


-- Any answer will do, as earlier servers know no /healthz.
local function probe(backend)
    local request = { path = "/healthz", limit = HEALTH_BODY }
    local response = http.get(backend, request, now() + HEALTH_TIMEOUT)
    if response and not SICK[response.status] then
        backend:note_success()
    else
        backend:note_failure()
    end
end


-- One member's answer, or nil and what get() returns then. That a server is in no state to answer is said by one that
-- can't be reached and by a 502 or 503; by a timeout (also a proxy's, 504) only where the answer would have come from
-- memory. Else it may be a certificate that takes long to issue, or a question that nothing happened for: /healthz
-- tells.
local function ask(self, backend, request, deadline)
    local response, err, kind = send(self, backend, request, deadline)
    if response and not SICK[response.status] then
        backend:note_success()
        return response
    end
    if response then
        err, kind = "the server answered " .. response.status, response.status == 504 and "timeout" or "unreachable"
    end
    if kind == "unreachable" or (kind == "timeout" and request.prompt) then
        backend:note_failure()
    else
        self.probes:start(backend.id, probe, backend)
    end
    return nil, err, kind
end


-- request: path, timeout (seconds, for all of it), limit (bytes of the body), prompt (true where the server needn't
-- work for it), open (true to send no token), host and etag (or nil).
-- Returns {status, headers, body}, or nil, the error, and its kind: "unreachable", "timeout" or "broken".
function _M.get(self, request)
    local deadline = now() + request.timeout
    local count, first = #self.members, self:current()
    local err, kind = "the server can't be reached", "unreachable"
    for step = 0, count - 1 do
        local index = (first + step - 1) % count + 1
        local backend = self.members[index]
        local start = now()
        if start < deadline and backend:may_try() then
            local response
            response, err, kind = ask(self, backend, request, start + (deadline - start) / (count - step))
            if response then
                if index ~= first then
                    self.dict:set(self.key, index)
                end
                return response
            end
        end
    end
    return nil, err, kind
end


-- For a question that the server may hold for all of the time: goes to one member in good health, so that its time is
-- whole. turn: which one, counted from the current one. Returns the same as get().
function _M.poll(self, request, turn)
    local deadline = now() + request.timeout
    local count, first = #self.members, self:current()
    for step = 0, count - 1 do
        local backend = self.members[(first + turn + step - 1) % count + 1]
        if backend:failures() == 0 then
            return ask(self, backend, request, deadline)
        end
    end
    return nil, "no server can be reached", "unreachable"
end


-- Looks whether dead servers are back; for one worker at a time, so that a visitor needn't.
function _M.look_after(self)
    for _, backend in ipairs(self.members) do
        if backend:failures() > 0 and not self.probes:is_busy(backend.id) and backend:may_try() then
            self.probes:start(backend.id, probe, backend)
        end
    end
end


return _M
