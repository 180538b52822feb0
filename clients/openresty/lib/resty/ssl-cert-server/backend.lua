-- One certificate server: its address, its connections, and what all workers know of its health.

local ngx = ngx
local find, match = string.find, string.match
local floor, max, min = math.floor, math.max, math.min
local now = ngx.now
local setmetatable, tonumber, tostring = setmetatable, tonumber, tostring
local tcp = ngx.socket.tcp

local BACKOFF_CAP = 5    -- seconds without a connection attempt to a dead server, at most
local FAILURES_TTL = 60  -- seconds after which past failures no longer lengthen the back-off
local IDLE_MS, IDLE_CONNECTIONS = 30000, 32

local _M = {}
local mt = { __index = _M }


local function parse_authority(text, default_port)
    local host, colon, port = match(text, "^(%[[%x:.]+%])(:?)(%d*)$")
    if not host then
        host, colon, port = match(text, "^([%w._-]+)(:?)(%d*)$")
    end
    if not host or (colon == "") ~= (port == "") then
        return nil, nil, "expected host:port, http://host:port, https://host:port or unix:/path"
    end
    port = port == "" and default_port or tonumber(port)
    if port < 1 or port > 65535 then
        return nil, nil, "no such port"
    end
    return host, port
end


-- "host:port", "host", "[v6]:port", any of these after "http://" or "https://", or "unix:/path".
local function parse(text)
    local path = match(text, "^unix:(/[^%c%s]*)$")
    if path then
        return { address = "unix:" .. path, authority = "localhost", id = "unix:" .. path }
    end
    local scheme, rest = match(text, "^(https?)://([^/]+)/?$")
    local tls = scheme == "https"
    local host, port, err = parse_authority(rest or text, tls and 443 or 80)
    if not host then
        return nil, err
    end
    local authority = host .. ":" .. port
    local id = (tls and "https://" or "") .. authority
    return { address = host, port = port, authority = authority, id = id, tls = tls }
end


local function is_address(host)
    return find(host, "^%[") or not find(match(host, "([^.]*)$"), "%a")
end


-- text: as the options have it. options: dict, prefix (of its keys), connect_timeout (seconds), pool (what sets this
-- instance's connections apart); for https server_name, or nil for the host, and client_cert and client_key, parsed.
function _M.new(text, options)
    local self, err = parse(text)
    if self and self.tls then
        self.server_name = options.server_name or self.address
        if is_address(self.server_name) then
            err = "https to an IP address needs the option 'server_name', the name in the server's certificate"
        end
    end
    if err then
        return nil, "backend '" .. text .. "': " .. err
    end
    self.dict, self.prefix = options.dict, options.prefix .. "backend:" .. self.id .. ":"
    self.pool = "ssl-cert-server:" .. options.pool .. ":" .. self.id
    self.connect_timeout = options.connect_timeout
    self.client_cert, self.client_key = options.client_cert, options.client_key
    return setmetatable(self, mt)
end


-- How many attempts failed since the last that didn't; 0 for a server in good health.
function _M.failures(self)
    return self.dict:get(self.prefix .. "failures") or 0
end


-- A dead server is left alone for up to BACKOFF_CAP seconds, then one request over all workers tries it.
function _M.may_try(self)
    local left = self.dict:ttl(self.prefix .. "down") or 0
    if left > BACKOFF_CAP then
        self.dict:delete(self.prefix .. "down")  -- the clock was set back
    elseif left > 0 then
        return false
    end
    if self:failures() == 0 then
        return true
    end
    local _, err = self.dict:add(self.prefix .. "probe", 1, self.connect_timeout + 1)
    return err ~= "exists"
end


-- What fails together with others, or after them, says nothing new.
function _M.note_failure(self)
    self.dict:delete(self.prefix .. "probe")
    local _, err = self.dict:add(self.prefix .. "down", 1, BACKOFF_CAP)
    if err == "exists" then
        return
    end
    local failures = self.dict:incr(self.prefix .. "failures", 1, 0, FAILURES_TTL) or 1
    self.dict:expire(self.prefix .. "failures", FAILURES_TTL)
    self.dict:set(self.prefix .. "down", 1, min(2 ^ (failures - 2), BACKOFF_CAP))
end


function _M.note_success(self)
    if self:failures() > 0 then
        self.dict:delete(self.prefix .. "failures")
        self.dict:delete(self.prefix .. "down")
        self.dict:delete(self.prefix .. "probe")
    end
end


local function shake_hands(self, sock)
    if self.client_cert then
        local ok, err = sock:setclientcert(self.client_cert, self.client_key)
        if not ok then
            return nil, err
        end
    end
    local ok, err = sock:sslhandshake(false, self.server_name, true)
    if ok and not sock:getreusedtimes() then
        -- lua-resty-core says true of a handshake that was over at once and failed; the socket is closed by then.
        return nil, "the server's certificate could not be verified"
    end
    return ok, err
end


-- A connection, or nil and why there is none. `fresh` asks for one that no pool had.
function _M.connect(self, deadline, fresh)
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    sock:settimeout(max(1, floor(1000 * min(self.connect_timeout, deadline - now()))))
    local options = { pool = self.pool .. (fresh and ":fresh" or "") }
    local ok
    if self.port then
        ok, err = sock:connect(self.address, self.port, options)
    else
        ok, err = sock:connect(self.address, options)
    end
    if not ok then
        return nil, "connect: " .. tostring(err)
    end
    local reused = (sock:getreusedtimes() or 0) > 0
    if self.tls and not reused then
        ok, err = shake_hands(self, sock)
        if not ok then
            sock:close()
            return nil, "TLS: " .. tostring(err)
        end
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
