-- Host names as they come from SNI and Host headers: anything a client cares to send.

local find, gmatch, lower, match, sub = string.find, string.gmatch, string.lower, string.match, string.sub
local type = type

local _M = {}


-- The one form of a host name that may become a key, a log field or part of a request. nil for whatever is none:
-- lower case, letters, digits, hyphen and underscore, labels of 1 to 63, 253 in all, and no IP address.
function _M.normalise(name)
    if type(name) ~= "string" or #name > 254 then
        return nil
    end
    name = lower(name)
    if sub(name, -1) == "." then
        name = sub(name, 1, -2)
    end
    if #name == 0 or #name > 253 or find(name, "[^a-z0-9._-]") then
        return nil
    end
    local last
    for label in gmatch(name .. ".", "([^.]*)%.") do
        if #label < 1 or #label > 63 or sub(label, 1, 1) == "-" or sub(label, -1) == "-" then
            return nil
        end
        last = label
    end
    if not find(last, "%a") then
        return nil  -- an IPv4 address: no top-level domain is all digits
    end
    return name
end


-- "example.com" of "*.example.com"; nil of what is no wildcard.
function _M.below_wildcard(text)
    return match(text, "^%*%.(.+)$")
end


-- "example.com" of "a.example.com": what a wildcard for the name is below. Empty where there is none.
function _M.parent(name)
    return match(name, "^[^.]*%.(.*)$") or ""
end


return _M
