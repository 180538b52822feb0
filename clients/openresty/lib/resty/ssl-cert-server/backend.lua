-- One certificate server: its address, its connections, and whether it is worth trying.

local ngx = ngx
local find, match, sub = string.find, string.match, string.sub
local floor, max, min = math.floor, math.max, math.min
local now = ngx.now
local setmetatable, tonumber, tostring = setmetatable, tonumber, tostring
local tcp = ngx.socket.tcp

local BACKOFF_CAP = 5    -- seconds without a connection attempt to a dead server, at most
local FAILURES_TTL = 60  -- seconds after which past failures no longer lengthen the back-off
local IDLE_MS, IDLE_CONNECTIONS = 30000, 32

local _M = {}
local mt = { __index = _M }


-- "host:port", "host", "[v6]:port", any of these after "http://", or "unix:/path".
local function parse(text)
    local path = match(text, "^unix:(/[^%c%s]*)$")
    if path then
        return { address = "unix:" .. path, authority = "localhost", id = "unix:" .. path }
    end
    if find(text, "^https:") then
        return nil, "backend '" .. text .. "': https is not supported yet"
    end
    local rest = match(text, "^http://([^/]+)/?$") or text
    local host, colon, port = match(rest, "^(%[[%x:.]+%])(:?)(%d*)$")
    if not host then
        host, colon, port = match(rest, "^([%w._-]+)(:?)(%d*)$")
    end
    if not host or (colon == "") ~= (port == "") then
        return nil, "backend '" .. text .. "': expected host:port, http://host:port or unix:/path"
    end
    port = port == "" and 80 or tonumber(port)
    if port < 1 or port > 65535 then
        return nil, "backend '" .. text .. "': no such port"
    end
    local authority = host .. ":" .. port
    return { address = host, port = port, authority = authority, id = authority }
end


-- What is known of a server's health is in `dict`, for all workers. connect_timeout is in seconds.
function _M.new(text, dict, connect_timeout)
    local self, err = parse(text)
    if not self then
        return nil, err
    end
    self.key = sub(ngx.md5(self.id), 1, 12)
    self.prefix = "scs1:" .. self.key .. ":backend:"
    self.dict = dict
    self.connect_timeout = connect_timeout
    return setmetatable(self, mt)
end


-- A dead server is left alone for up to BACKOFF_CAP seconds, then one job over all workers tries it.
local function is_down(self)
    if self.dict:get(self.prefix .. "down") then
        return true
    end
    if not self.dict:get(self.prefix .. "failures") then
        return false
    end
    local _, err = self.dict:safe_add(self.prefix .. "probe", 1, self.connect_timeout + 1)
    return err == "exists"
end


local function note_failure(self)
    local failures = self.dict:incr(self.prefix .. "failures", 1, 0, FAILURES_TTL) or 1
    self.dict:safe_set(self.prefix .. "down", 1, min(2 ^ (failures - 2), BACKOFF_CAP))
    self.dict:delete(self.prefix .. "probe")
end


local function note_success(self)
    if self.dict:get(self.prefix .. "failures") then
        self.dict:delete(self.prefix .. "failures")
        self.dict:delete(self.prefix .. "down")
        self.dict:delete(self.prefix .. "probe")
    end
end


-- A connection, or nil and why there is none. `fresh` asks for one that no pool had.
function _M.connect(self, deadline, fresh)
    if is_down(self) then
        return nil, "the server can't be reached"
    end
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    sock:settimeout(max(1, floor(1000 * min(self.connect_timeout, deadline - now()))))
    local options = { pool = "ssl-cert-server:" .. self.id .. (fresh and ":fresh" or "") }
    local ok
    if self.port then
        ok, err = sock:connect(self.address, self.port, options)
    else
        ok, err = sock:connect(self.address, options)
    end
    if not ok then
        note_failure(self)
        return nil, "connect: " .. tostring(err)
    end
    local reused = (sock:getreusedtimes() or 0) > 0
    if not reused then
        note_success(self)
    end
    return { sock = sock, deadline = deadline, buffer = "", reused = reused, fresh = fresh, heard = false }
end


-- Ends the use of a connection whose answer was read to its end.
function _M.release(_, connection, keep)
    if keep and connection.buffer == "" and not connection.fresh then
        connection.sock:setkeepalive(IDLE_MS, IDLE_CONNECTIONS)
    else
        connection.sock:close()
    end
end


return _M
