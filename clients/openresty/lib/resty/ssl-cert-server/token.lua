-- The bearer token: from the options, or from a file that may change while nginx runs.

local ngx = ngx
local find, match = string.find, string.match
local now = ngx.now
local open = io.open
local setmetatable, tostring = setmetatable, tostring

local LOOK_EVERY = 10   -- seconds between readings of the file
local MAX_LENGTH = 4096

local _M = {}
local mt = { __index = _M }


-- RFC 6750's b64token, so that nothing in it can end the header it goes into.
local function is_token(text)
    return #text <= MAX_LENGTH and find(text, "^[%w._~+/-]+=*$") ~= nil
end


local function read(path)
    local file, err = open(path, "rb")
    if not file then
        return nil, tostring(err)
    end
    local text = file:read(MAX_LENGTH + 256)
    file:close()
    text = match(text or "", "^%s*(.-)%s*$")
    if not is_token(text) then
        return nil, path .. ": not a token: letters, digits and -._~+/ up to " .. MAX_LENGTH .. " characters"
    end
    return text
end


-- token: a string, or nil. path: a file with one, or nil. nil and an error where it is unusable.
function _M.new(token, path, log)
    local self = setmetatable({ token = token, path = path, log = log, look_at = now() + LOOK_EVERY }, mt)
    if token and path then
        return nil, "'token' and 'token_file' exclude each other"
    end
    if token and not is_token(token) then
        return nil, "option 'token' must be letters, digits and -._~+/ up to " .. MAX_LENGTH .. " characters"
    end
    if path then
        local err
        self.token, err = read(path)
        if not self.token then
            return nil, "option 'token_file': " .. err
        end
    end
    return self
end


-- Reads the file again. True if there is another token now; one that can't be read leaves the old one in use.
function _M.reload(self)
    if not self.path then
        return false
    end
    self.look_at = now() + LOOK_EVERY
    local token, err = read(self.path)
    if not token then
        self.log(ngx.WARN, "token", "the token file can't be used, the token read before stays: ", err)
        return false
    end
    local changed = token ~= self.token
    self.token = token
    return changed
end


-- The token, or nil where there is none.
function _M.get(self)
    if self.path and now() >= self.look_at then
        self:reload()
    end
    return self.token
end


return _M
