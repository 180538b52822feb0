-- Gives the handshake under way what an entry holds.

local ocsp = require "ngx.ocsp"
local openssl = require "resty.ssl-cert-server.openssl"
local ssl = require "ngx.ssl"

local choose, use = openssl.choose, openssl.use
local clear_certs, set_cert, set_priv_key = ssl.clear_certs, ssl.set_cert, ssl.set_priv_key
local set_ocsp_status_resp = ocsp.set_ocsp_status_resp

local _M = {}


local function add(part)
    if part.leaf then
        return use(part.leaf, part.rest, part.key)
    end
    local ok, err = set_cert(part.chain)
    if not ok then
        return nil, err
    end
    return set_priv_key(part.key)
end


-- The part whose staple goes with this handshake, which can have one: that of the certificate OpenSSL will choose.
local function stapled_part(entry, other)
    if not other then
        return entry
    end
    if not choose or not (entry.staple or other.staple) or not entry.schemes or not other.schemes then
        return nil
    end
    local choice = choose(entry.schemes, other.schemes)
    return choice == 1 and entry or choice == 2 and other or nil
end


-- Puts the entry's certificate, or both, in the place of nginx's own. Returns true and whether a staple goes along, or
-- nil and the error.
function _M.install(entry)
    local ok, err = clear_certs()
    if ok then
        ok, err = add(entry)
    end
    local other = entry.other
    if ok and other then
        ok, err = add(other)
    end
    if not ok then
        return nil, err
    end
    local part = stapled_part(entry, other)
    return true, part ~= nil and part.staple ~= nil and set_ocsp_status_resp(part.staple) == true
end


return _M
