-- From the server's answers to what nginx can serve, with nothing taken on trust.
--
-- A record is what the shared dictionary holds: strings and numbers, the PEMs among them.
-- An entry is what a worker's LRU holds: the parsed chain and key, without the PEMs; the store adds the staple and the
-- entry of the other key type, where there are such.

local cjson = require "cjson.safe"
local openssl = require "resty.ssl-cert-server.openssl"
local ssl = require "ngx.ssl"

local find, lower, match = string.find, string.lower, string.match
local byte, sub = string.byte, string.sub
local decode_base64, encode_base64 = ngx.decode_base64, ngx.encode_base64
local floor, max, min = math.floor, math.max, math.min
local md5 = ngx.md5
local now = ngx.now
local tonumber, tostring, type = tonumber, tostring, type

local MAX_TTL = 86400
local DEFAULT_TTL = 60  -- seconds; of an answer that should say and doesn't
local NONE_KEPT = 3600  -- seconds that "no staple" stays on record after its ttl
-- TLS 1.3's signature schemes: what an RSA key may be used with, and what a curve, by its bits.
local RSA_SCHEMES = { [0x0804] = true, [0x0805] = true, [0x0806] = true }
local ECDSA_SCHEMES = { [256] = { [0x0403] = true }, [384] = { [0x0503] = true }, [521] = { [0x0603] = true } }
local OTHER_FAMILY = { ecdsa = "rsa", rsa = "ecdsa" }

local _M = {}


local function refresh_at(ttl)
    return now() + max(1, min(ttl, MAX_TTL))
end


local function seconds(header)
    return tonumber(match(header or "", "^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$") or "")
end
_M.seconds = seconds


-- "ecdsa", "rsa", or nil for a key that doesn't say.
local function family(pem)
    local label = match(pem, "BEGIN (%u+) PRIVATE KEY")
    return label == "EC" and "ecdsa" or label == "RSA" and "rsa" or nil
end


local function schemes(pem, key)
    if family(pem) ~= "ecdsa" then
        return family(pem) and RSA_SCHEMES
    end
    return openssl.key_bits and ECDSA_SCHEMES[openssl.key_bits(key)] or nil
end


-- The chain and the key of two PEMs, or nil and what is wrong with them.
function _M.parse_pair(cert, pkey)
    if find(pkey, "ENCRYPTED", 1, true) then
        return nil, "the key is encrypted"  -- OpenSSL would ask the terminal for a passphrase
    end
    local chain, key, err
    chain, err = ssl.parse_pem_cert(cert)
    if not chain then
        return nil, "bad certificate: " .. tostring(err)
    end
    key, err = ssl.parse_pem_priv_key(pkey)
    if not key then
        return nil, "bad key: " .. tostring(err)
    end
    -- Where OpenSSL's function can't be reached, nginx finds a mismatch when it is given the pair.
    if openssl.pair_matches and not openssl.pair_matches(chain, key) then
        return nil, "certificate and key do not match"
    end
    return chain, key
end


-- What tells a record's chain from another's, with the same leaf or not.
function _M.digest(record)
    return md5(record.cert)
end


-- The entry for a record, or nil and what is wrong with it.
function _M.parse_record(record)
    local chain, key = _M.parse_pair(record.cert, record.pkey)
    if not chain then
        return nil, key
    end
    local leaf, rest
    if openssl.split then
        leaf, rest = openssl.split(chain)
    end
    -- Else the first handshake would find out, with nothing left to serve.
    if leaf and openssl.accepts then
        local accepted, reason = openssl.accepts(leaf, rest, key)
        if not accepted then
            return nil, "OpenSSL refuses the certificate: " .. reason
        end
    end
    return {
        digest = _M.digest(record),
        chain = chain, leaf = leaf, rest = rest, key = key, fingerprint = record.fingerprint, type = record.type,
        expire_at = record.expire_at, family = family(record.pkey), schemes = schemes(record.pkey, key), check_at = 0,
    }
end


local function is_integer(value, least, most)
    return type(value) == "number" and value >= least and value <= most and floor(value) == value
end


-- Takes over what a 200 and a 304 have in common. The server says with `X-Keytypes` that it has the name's certificate
-- in both key types; an earlier one doesn't know the header.
function _M.note_headers(record, headers, ttl)
    record.refresh_at = refresh_at(ttl or seconds(headers["x-ttl"]) or DEFAULT_TTL)
    local both = lower(headers["x-keytypes"] or "")
    local own = family(record.pkey)
    record.other = own and find(both, "ecdsa", 1, true) and find(both, "rsa", 1, true) and OTHER_FAMILY[own] or nil
end


-- The record and the entry for a 200's body and headers, or nil and what is wrong with it. wanted: the key type that
-- was asked for, or nil.
function _M.parse_answer(response, wanted)
    local answer = cjson.decode(response.body)
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
    if wanted and family(answer.pkey) ~= wanted then
        return nil, "another key type than the one asked for"
    end
    local record = {
        cert = answer.cert, pkey = answer.pkey, fingerprint = fingerprint, type = answer.type,
        expire_at = answer.expire_at,
    }
    _M.note_headers(record, response.headers, answer.ttl)
    local entry, err = _M.parse_record(record)
    if not entry then
        return nil, err
    end
    return record, entry
end


-- The contents of a DER value: where they begin in `text`, if they end where it ends.
local function contents(text)
    local length, start = byte(text, 2), 3
    if not length or length == 0x80 or length > 0x84 then
        return nil
    end
    if length > 0x80 then
        local count = length - 0x80
        length = 0
        for index = 3, 2 + count do
            length = length * 256 + (byte(text, index) or 0)
        end
        start = 3 + count
    end
    return length == #text - start + 1 and start or nil
end


-- A successful OCSPResponse (RFC 6960): a SEQUENCE that begins with ENUMERATED 0. The server has verified the rest.
local function is_staple(der)
    local start = byte(der, 1) == 0x30 and contents(der)
    return start and sub(der, start, start + 2) == "\10\1\0"
end


-- The staple's record for an answer to /ocsp/, or nil and what is wrong with it. A server without staples answers 404.
-- "None" is believed for as long as the certificate is.
function _M.parse_staple(response, certificate)
    if response.status == 204 or response.status == 404 then
        local ttl = certificate.refresh_at - now()
        return { refresh_at = refresh_at(ttl), expire_at = now() + max(1, ttl) + NONE_KEPT }
    end
    local expire_at = seconds(response.headers["x-expire-at"])
    if not expire_at or expire_at <= now() then
        return nil, "the staple has expired, or doesn't say when it will"
    end
    if not is_staple(response.body) then
        return nil, "not an OCSP response"
    end
    return {
        der = encode_base64(response.body), expire_at = expire_at,
        refresh_at = refresh_at(seconds(response.headers["x-ttl"]) or DEFAULT_TTL),
    }
end


-- Puts what is on record into an entry: the staple, or that there is none.
function _M.attach_staple(entry, record)
    entry.staple = record.der and decode_base64(record.der) or nil
    entry.staple_until = record.expire_at
end


return _M
