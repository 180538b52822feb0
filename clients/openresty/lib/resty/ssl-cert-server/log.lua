-- Log lines that a flood of handshakes can't multiply.

local ngx = ngx
local concat = table.concat
local gsub, sub = string.gsub, string.sub
local now = ngx.now

local _M = {}


-- A function log(level, kind, ...) that writes one line per kind and second, made of printable ASCII.
-- What it held back is counted on the next line. Never hand it key material.
function _M.new()
    local seen = {}
    return function(level, kind, ...)
        local last = seen[kind]
        local t = now()
        if last and t >= last.at and t - last.at < 1 then
            last.held = last.held + 1
            return
        end
        local text = gsub(concat({ ... }), "[^\32-\126]", "?")
        local more = last and last.held > 0 and " (and " .. last.held .. " more like it)" or ""
        seen[kind] = { at = t, held = 0 }
        ngx.log(level, "ssl-cert-server: ", sub(text, 1, 500), more)
    end
end


return _M
