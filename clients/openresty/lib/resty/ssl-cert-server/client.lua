-- Asks the certificate servers: one after the other until one answers, and that one first the next time.

local http = require "resty.ssl-cert-server.http"

local now = ngx.now
local ipairs, setmetatable = ipairs, setmetatable

local HEALTH_TIMEOUT = 2  -- seconds
local HEALTH_BODY = 65536

local _M = {}
local mt = { __index = _M }

-- What a proxy says of a server behind it, or a server of itself while it can't serve. A 500 is about one name.
local SICK = { [502] = true, [503] = true, [504] = true }


-- options: members (list of backends), dict, prefix (of its keys), token (its source).
function _M.new(options)
    return setmetatable({
        members = options.members, dict = options.dict, token = options.token, key = options.prefix .. "current",
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


-- Whether what happened says that the server is in no state to answer. A timeout says so only where the answer would
-- have come from memory; else it is a certificate that takes long to issue. With another server to turn to, all of it
-- does: they share their work, so that the next one goes on with what this one began.
local function is_trouble(self, request, response, kind)
    if response then
        return SICK[response.status]
    end
    return kind == "unreachable" or #self.members > 1 or (kind == "timeout" and request.prompt)
end


-- request: path, timeout (seconds, for all of it), limit (bytes of the body), prompt (true where the server needn't
-- work for it), open (true to send no token), host and etag (or nil).
-- Returns {status, headers, body}, or nil, the error, and its kind: "unreachable", "timeout" or "broken".
function _M.get(self, request)
    local deadline = now() + request.timeout
    local count, first = #self.members, self:current()
    local sick, err, kind = nil, "the server can't be reached", "unreachable"
    for step = 0, count - 1 do
        local index = (first + step - 1) % count + 1
        local backend = self.members[index]
        local start = now()
        if start < deadline and backend:may_try() then
            local response
            response, err, kind = send(self, backend, request, start + (deadline - start) / (count - step))
            if not is_trouble(self, request, response, kind) then
                if response then
                    backend:note_success()
                    if index ~= first then
                        self.dict:set(self.key, index)
                    end
                end
                return response, err, kind
            end
            backend:note_failure()
            sick = response or sick
        end
    end
    return sick, err, kind
end


-- Looks whether a server is back: any answer will do, as earlier servers know no /healthz.
function _M.probe(_, backend)
    local request = { path = "/healthz", limit = HEALTH_BODY }
    local response = http.get(backend, request, now() + HEALTH_TIMEOUT)
    if response and not SICK[response.status] then
        backend:note_success()
    else
        backend:note_failure()
    end
end


return _M
