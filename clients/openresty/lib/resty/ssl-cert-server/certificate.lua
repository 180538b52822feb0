-- From the server's answer to a certificate nginx can serve, with nothing taken on trust.
--
-- A record is what the shared dictionary holds: strings and numbers, the PEMs among them.
-- An entry is what a worker's LRU holds: the parsed chain and key, without the PEMs. Its check_at is when to look
-- whether there is something newer; it follows refresh_at.

local cjson = require "cjson.safe"
local ffi = require "ffi"
local ssl = require "ngx.ssl"

local find = string.find
local floor, max, min = math.floor, math.max, math.min
local now = ngx.now
local pcall, tostring, type = pcall, tostring, type

local MAX_TTL = 86400

local _M = {}


-- The names on the left are our own, so that no other library's declaration of the same functions can clash.
local declared = pcall(ffi.cdef, [[
    void *ssl_cert_server_stack_item(const void *stack, int index) __asm__("OPENSSL_sk_value");
    int ssl_cert_server_pair_matches(const void *leaf, const void *key) __asm__("X509_check_private_key");
    void ssl_cert_server_clear_errors(void) __asm__("ERR_clear_error");
]])


local function pair_matches(chain, key)
    local leaf = ffi.C.ssl_cert_server_stack_item(chain, 0)
    local matches = leaf ~= nil and ffi.C.ssl_cert_server_pair_matches(leaf, key) == 1
    ffi.C.ssl_cert_server_clear_errors()
    return matches
end


-- The time at which a certificate with this ttl is to be asked for again.
function _M.refresh_at(ttl)
    return now() + max(1, min(ttl, MAX_TTL))
end


-- The entry for a record, or nil and what is wrong with it.
function _M.parse_record(record)
    if find(record.pkey, "ENCRYPTED", 1, true) then
        return nil, "the key is encrypted"  -- OpenSSL would ask the terminal for a passphrase
    end
    local chain, key, err
    chain, err = ssl.parse_pem_cert(record.cert)
    if not chain then
        return nil, "bad certificate: " .. tostring(err)
    end
    key, err = ssl.parse_pem_priv_key(record.pkey)
    if not key then
        return nil, "bad key: " .. tostring(err)
    end
    -- Where OpenSSL's functions can't be reached the call fails, and nginx finds a mismatch when it is given the pair.
    local ok, matches = pcall(pair_matches, chain, key)
    if declared and ok and not matches then
        return nil, "certificate and key do not match"
    end
    return {
        chain = chain, key = key, fingerprint = record.fingerprint, type = record.type,
        expire_at = record.expire_at, refresh_at = record.refresh_at, check_at = record.refresh_at,
    }
end


local function is_integer(value, least, most)
    return type(value) == "number" and value >= least and value <= most and floor(value) == value
end


-- The record and the entry for the body of a 200, or nil and what is wrong with it.
function _M.parse_answer(body)
    local answer = cjson.decode(body)
    if type(answer) ~= "table" then
        return nil, "not a JSON object"
    end
    if type(answer.cert) ~= "string" or type(answer.pkey) ~= "string" then
        return nil, "cert and pkey must be strings"
    end
    local fingerprint = answer.fingerprint
    if type(fingerprint) ~= "string" or not find(fingerprint, "^%x+$") or #fingerprint > 128 then
        return nil, "malformed fingerprint"
    end
    if not is_integer(answer.type, 0, 100) then  -- 101, a challenge's certificate, is not for visitors
        return nil, "malformed type"
    end
    if not is_integer(answer.ttl, 0, 2 ^ 31) or not is_integer(answer.expire_at, 0, 2 ^ 40) then
        return nil, "malformed ttl or expire_at"
    end
    if answer.expire_at <= now() then
        return nil, "the certificate has expired"
    end
    local record = {
        cert = answer.cert, pkey = answer.pkey, fingerprint = fingerprint, type = answer.type,
        expire_at = answer.expire_at, refresh_at = _M.refresh_at(answer.ttl),
    }
    local entry, err = _M.parse_record(record)
    if not entry then
        return nil, err
    end
    return record, entry
end


-- Gives this handshake the entry's certificate in place of nginx's own.
function _M.install(entry)
    local ok, err = ssl.clear_certs()
    if ok then
        ok, err = ssl.set_cert(entry.chain)
    end
    if ok then
        ok, err = ssl.set_priv_key(entry.key)
    end
    return ok, err
end


return _M
