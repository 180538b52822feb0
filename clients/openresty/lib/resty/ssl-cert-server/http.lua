-- A GET over HTTP/1.1 that trusts the other side with nothing: every read has a deadline and a bound.

local ngx = ngx
local concat = table.concat
local find, gsub, lower, match, sub = string.find, string.gsub, string.lower, string.match, string.sub
local floor, max = math.floor, math.max
local now = ngx.now
local tonumber, tostring = tonumber, tostring

local HEAD_LIMIT = 16 * 1024  -- bytes of status line and headers, and again of trailers
local RECEIVE_SIZE = 16 * 1024

local _M = {}


local function arm(connection)
    local left = floor((connection.deadline - now()) * 1000)
    connection.sock:settimeout(max(1, left))
    return left > 0
end


local function receive(connection)
    if not arm(connection) then
        return nil, "timeout"
    end
    local data, err = connection.sock:receiveany(RECEIVE_SIZE)
    if data then
        connection.heard = true
    end
    return data, err
end


-- A line without its end. allowance.bytes is what may still be read, and goes down.
local function read_line(connection, allowance)
    while true do
        local stop = find(connection.buffer, "\n", 1, true)
        if (stop or #connection.buffer) > allowance.bytes then
            return nil, "headers too large"
        end
        if stop then
            allowance.bytes = allowance.bytes - stop
            local line = sub(connection.buffer, 1, stop - 1)
            connection.buffer = sub(connection.buffer, stop + 1)
            return (gsub(line, "\r$", ""))
        end
        local data, err = receive(connection)
        if not data then
            return nil, err
        end
        connection.buffer = connection.buffer .. data
    end
end


local function read_exactly(connection, size)
    local parts, have = { connection.buffer }, #connection.buffer
    while have < size do
        local data, err = receive(connection)
        if not data then
            return nil, err
        end
        parts[#parts + 1] = data
        have = have + #data
    end
    local all = concat(parts)
    connection.buffer = sub(all, size + 1)
    return sub(all, 1, size)
end


local function read_to_end(connection, limit)
    local parts, have = { connection.buffer }, #connection.buffer
    connection.buffer = ""
    while have <= limit do
        local data, err = receive(connection)
        if data then
            parts[#parts + 1] = data
            have = have + #data
        elseif err == "closed" then
            return concat(parts)
        else
            return nil, err
        end
    end
    return nil, "body too large"
end


-- By lower-case name. A repeated header's last value stands, but for those that say where the body ends.
local function read_headers(connection, allowance)
    local headers = {}
    while true do
        local line, err = read_line(connection, allowance)
        if not line then
            return nil, err
        end
        if line == "" then
            return headers
        end
        local name, value = match(line, "^([%w!#$%%&'*+.^_`|~-]+):[ \t]*(.-)[ \t]*$")
        if not name then
            return nil, "malformed header"
        end
        name = lower(name)
        if headers[name] and (name == "content-length" or name == "transfer-encoding") then
            return nil, "repeated " .. name
        end
        headers[name] = value
    end
end


local function read_chunk_size(connection)
    local line, err = read_line(connection, { bytes = 256 })
    if not line then
        return nil, err
    end
    local digits = match(line, "^(%x+)[ \t]*$") or match(line, "^(%x+)[ \t]*;")
    if not digits or #digits > 8 then
        return nil, "malformed chunk"
    end
    return tonumber(digits, 16)
end


local function read_chunks(connection, limit)
    local parts, have = {}, 0
    while true do
        local size, err = read_chunk_size(connection)
        if not size then
            return nil, err
        end
        if size == 0 then
            local trailers, trailers_err = read_headers(connection, { bytes = HEAD_LIMIT })
            return trailers and concat(parts), trailers_err
        end
        have = have + size
        if have > limit then
            return nil, "body too large"
        end
        parts[#parts + 1], err = read_exactly(connection, size)
        if err then
            return nil, err
        end
        local line
        line, err = read_line(connection, { bytes = 2 })
        if line ~= "" then
            return nil, err or "malformed chunk"
        end
    end
end


local function read_body(connection, response, limit)
    local encoding, length = response.headers["transfer-encoding"], response.headers["content-length"]
    if response.status == 204 or response.status == 304 then
        return ""
    end
    if encoding then
        if lower(encoding) ~= "chunked" then
            return nil, "unknown transfer encoding"
        end
        response.keep = response.keep and not length
        return read_chunks(connection, limit)
    end
    if not length then
        response.keep = false
        return read_to_end(connection, limit)
    end
    if not find(length, "^%d+$") or #length > 15 then
        return nil, "malformed content-length"
    end
    length = tonumber(length)
    if length > limit then
        return nil, "body too large"
    end
    return read_exactly(connection, length)
end


local function read_response(connection, limit)
    local allowance = { bytes = HEAD_LIMIT }
    while true do
        local line, err = read_line(connection, allowance)
        if not line then
            return nil, err
        end
        local minor, status, rest = match(line, "^HTTP/1%.([01]) (%d%d%d)(.?)")
        if not status or (rest ~= "" and rest ~= " ") or status == "101" then
            return nil, "not an HTTP answer"
        end
        local headers
        headers, err = read_headers(connection, allowance)
        if not headers then
            return nil, err
        end
        status = tonumber(status)
        if status >= 200 then
            local keep = minor == "1" and lower(headers["connection"] or "") ~= "close"
            local response = { status = status, headers = headers, keep = keep }
            response.body, err = read_body(connection, response, limit)
            if not response.body then
                return nil, err
            end
            return response
        end
    end
end


local function render(backend, request)
    local lines = {
        "GET " .. request.path .. " HTTP/1.1",
        "Host: " .. (request.host or backend.authority),
        "User-Agent: ssl-cert-server-openresty",
    }
    if request.etag then
        lines[#lines + 1] = "If-None-Match: " .. request.etag
    end
    if request.token then
        lines[#lines + 1] = "Authorization: Bearer " .. request.token
    end
    return concat(lines, "\r\n") .. "\r\n\r\n"
end


-- request: path, limit (bytes of the body), host (nil: the server's own), etag and token (or nil); the caller vouches
-- for the characters in them. deadline: a time by which all of it must be over.
-- Returns {status, headers, body}, or nil, the error, and its kind: "unreachable", "timeout" or "broken".
function _M.get(backend, request, deadline)
    local head = render(backend, request)
    for attempt = 1, 2 do
        local connection, err = backend:connect(deadline, attempt == 2)
        if not connection then
            return nil, err, "unreachable"
        end
        local response, sent
        arm(connection)
        sent, err = connection.sock:send(head)
        if sent then
            response, err = read_response(connection, request.limit)
        end
        if response then
            backend:release(connection, response.keep)
            return response
        end
        connection.sock:close()
        -- A kept connection that was closed in the meantime says nothing about the server: once more, on a new one.
        if not connection.reused or connection.heard or err == "timeout" then
            return nil, tostring(err), err == "timeout" and "timeout" or "broken"
        end
    end
end


return _M
