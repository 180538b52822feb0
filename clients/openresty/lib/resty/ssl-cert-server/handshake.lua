-- Gives the handshake under way what an entry holds.

local ocsp = require "ngx.ocsp"
local openssl = require "resty.ssl-cert-server.openssl"
local ssl = require "ngx.ssl"

local choose, restore, use = openssl.choose, openssl.restore, openssl.use
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


-- Puts the entry's certificate, or both, in the place of nginx's own. Returns whether a staple goes along, or nil where
-- nginx's own stays; and, if a part was refused, the error and that part.
function _M.install(entry)
    local ok, err = clear_certs()
    if not ok then
        return nil, err
    end
    ok, err = add(entry)
    if not ok then
        if restore then
            restore()
        end
        return nil, err, entry
    end
    local other, refused = entry.other, nil
    if other then
        ok, err = add(other)
        if not ok then
            other, refused = nil, other
        end
    end
    local part = stapled_part(entry, other)
    local stapled = part ~= nil and part.staple ~= nil and set_ocsp_status_resp(part.staple) == true
    return stapled, err, refused
end


return _M
