-- Gives the handshake under way what an entry holds.

local base = require "resty.core.base"
local bit = require "bit"
local ffi = require "ffi"
local ocsp = require "ngx.ocsp"
local ssl = require "ngx.ssl"

local C = ffi.C
local clear_certs, set_cert, set_priv_key = ssl.clear_certs, ssl.set_cert, ssl.set_priv_key
local get_request = base.get_request
local min = math.min
local pcall, tonumber = pcall, tonumber
local set_ocsp_status_resp = ocsp.set_ocsp_status_resp

local CTRL_MODE, NO_AUTO_CHAIN = 33, 8  -- SSL_CTRL_MODE, SSL_MODE_NO_AUTO_CHAIN
local TLS13 = 0x0304
local SERVER_PREFERENCE = 0x00400000  -- SSL_OP_CIPHER_SERVER_PREFERENCE, nginx's ssl_prefer_server_ciphers
local MOST_SCHEMES = 100

local _M = {}


-- The names on the left are our own, so that no other library's declaration of the same functions can clash.
local declared = pcall(ffi.cdef, [[
    void *ssl_cert_server_connection(void *request, const char **err)
        __asm__("ngx_http_lua_ffi_get_req_ssl_pointer");
    long ssl_cert_server_ctrl(void *connection, int command, long number, void *more) __asm__("SSL_ctrl");
    int ssl_cert_server_version(const void *connection) __asm__("SSL_version");
    uint64_t ssl_cert_server_options(const void *connection) __asm__("SSL_get_options");
    int ssl_cert_server_scheme(void *connection, int index, int *sign, int *hash, int *both, unsigned char *low,
        unsigned char *high) __asm__("SSL_get_sigalgs");
]])
local can_control = declared and pcall(function()
    return C.ssl_cert_server_connection, C.ssl_cert_server_ctrl
end)
local can_choose = can_control and pcall(function()
    return C.ssl_cert_server_version, C.ssl_cert_server_options, C.ssl_cert_server_scheme
end)
local errors, low, high = ffi.new("const char *[1]"), ffi.new("unsigned char[1]"), ffi.new("unsigned char[1]")


-- A certificate without a chain would have OpenSSL look for one in each handshake, which costs more than all else here.
local function without_chain()
    local connection = C.ssl_cert_server_connection(get_request(), errors)
    if connection ~= nil then
        C.ssl_cert_server_ctrl(connection, CTRL_MODE, NO_AUTO_CHAIN, nil)
    end
end


-- Which of two certificates OpenSSL will choose, or nil where that can't be told. In TLS 1.3 it is the one that goes
-- with the first signature scheme in the client's list. Before, it follows from the cipher, which is chosen later.
local function chosen(entry, other)
    local connection = C.ssl_cert_server_connection(get_request(), errors)
    if connection == nil or C.ssl_cert_server_version(connection) ~= TLS13
        or bit.band(tonumber(C.ssl_cert_server_options(connection) % 2 ^ 32), SERVER_PREFERENCE) ~= 0
    then
        return nil
    end
    local count = C.ssl_cert_server_scheme(connection, -1, nil, nil, nil, nil, nil)
    for index = 0, min(count, MOST_SCHEMES) - 1 do
        C.ssl_cert_server_scheme(connection, index, nil, nil, nil, low, high)
        local scheme = high[0] * 256 + low[0]
        if entry.schemes[scheme] then
            return entry
        elseif other.schemes[scheme] then
            return other
        end
    end
end


local function add_other(entry, other)
    local ok, err = set_cert(other.chain)
    if ok then
        ok, err = set_priv_key(other.key)
    end
    if not ok then
        return nil, err
    end
    -- There can be one staple in a handshake.
    return (entry.staple or other.staple) and can_choose and entry.schemes and other.schemes and chosen(entry, other)
end


-- Puts the entry's certificate, or both, in the place of nginx's own. Returns true and whether a staple goes along, or
-- nil and the error.
function _M.install(entry)
    local ok, err = clear_certs()
    if ok then
        ok, err = set_cert(entry.chain)
    end
    if ok then
        ok, err = set_priv_key(entry.key)
    end
    if not ok then
        return nil, err
    end
    local stapled = entry
    if entry.other then
        stapled, err = add_other(entry, entry.other)
        if err then
            return nil, err
        end
    end
    if entry.alone and can_control then
        without_chain()
    end
    local staple = stapled and stapled.staple
    if not staple then
        return true, false
    end
    return true, set_ocsp_status_resp(staple) == true
end


return _M
