-- What of OpenSSL lua-resty-core has no name for. Where a function can't be reached (another library, a static build),
-- what needs it is nil, and those who use it do without.

local base = require "resty.core.base"
local bit = require "bit"
local ffi = require "ffi"

local C = ffi.C
local get_request = base.get_request
local min = math.min
local pcall, select, tonumber = pcall, select, tonumber

local TLS13 = 0x0304
local SERVER_PREFERENCE = 0x00400000  -- SSL_OP_CIPHER_SERVER_PREFERENCE, nginx's ssl_prefer_server_ciphers
local MOST_SCHEMES = 100
local MOST_LEVEL = 5  -- of OpenSSL's security levels

local _M = {}


-- The names on the left are our own, so that no other library's declaration of the same functions can clash.
local declared = pcall(ffi.cdef, [[
    void *ssl_cert_server_stack_item(const void *stack, int index) __asm__("OPENSSL_sk_value");
    void *ssl_cert_server_stack_copy(const void *stack) __asm__("OPENSSL_sk_dup");
    void *ssl_cert_server_stack_shift(void *stack) __asm__("OPENSSL_sk_shift");
    void ssl_cert_server_stack_free(void *stack) __asm__("OPENSSL_sk_free");
    int ssl_cert_server_pair_matches(const void *leaf, const void *key) __asm__("X509_check_private_key");
    int ssl_cert_server_key_bits_3(const void *key) __asm__("EVP_PKEY_get_bits");
    int ssl_cert_server_key_bits_1(const void *key) __asm__("EVP_PKEY_bits");
    void ssl_cert_server_clear_errors(void) __asm__("ERR_clear_error");
    void *ssl_cert_server_connection(void *request, const char **err)
        __asm__("ngx_http_lua_ffi_get_req_ssl_pointer");
    int ssl_cert_server_use(void *connection, void *leaf, void *key, void *rest, int override)
        __asm__("SSL_use_cert_and_key");
    const void *ssl_cert_server_method(void) __asm__("TLS_server_method");
    void *ssl_cert_server_new_context(const void *method) __asm__("SSL_CTX_new");
    void *ssl_cert_server_new_connection(void *context) __asm__("SSL_new");
    void *ssl_cert_server_context(const void *connection) __asm__("SSL_get_SSL_CTX");
    void *ssl_cert_server_set_context(void *connection, void *context) __asm__("SSL_set_SSL_CTX");
    int ssl_cert_server_level(const void *connection) __asm__("SSL_get_security_level");
    void ssl_cert_server_set_level(void *connection, int level) __asm__("SSL_set_security_level");
    void ssl_cert_server_clear(void *connection) __asm__("SSL_certs_clear");
    unsigned long ssl_cert_server_last_error(void) __asm__("ERR_peek_last_error");
    const char *ssl_cert_server_reason(unsigned long code) __asm__("ERR_reason_error_string");
    int ssl_cert_server_version(const void *connection) __asm__("SSL_version");
    uint64_t ssl_cert_server_options(const void *connection) __asm__("SSL_get_options");
    int ssl_cert_server_scheme(void *connection, int index, int *sign, int *hash, int *both, unsigned char *low,
        unsigned char *high) __asm__("SSL_get_sigalgs");
]])


local function have(...)
    for index = 1, select("#", ...) do
        local name = select(index, ...)
        if not declared or not pcall(function() return C["ssl_cert_server_" .. name] end) then
            return false
        end
    end
    return true
end


local errors = ffi.new("const char *[1]")

local function connection()
    local pointer = C.ssl_cert_server_connection(get_request(), errors)
    return pointer ~= nil and pointer or nil
end


if have("stack_item", "pair_matches", "clear_errors") then
    -- Whether a parsed chain's leaf and a key belong together.
    function _M.pair_matches(chain, key)
        local leaf = C.ssl_cert_server_stack_item(chain, 0)
        local matches = leaf ~= nil and C.ssl_cert_server_pair_matches(leaf, key) == 1
        C.ssl_cert_server_clear_errors()
        return matches
    end
end


local key_bits = have("key_bits_3") and "ssl_cert_server_key_bits_3"      -- OpenSSL 3
    or have("key_bits_1") and "ssl_cert_server_key_bits_1"

if key_bits then
    function _M.key_bits(key)
        return C[key_bits](key)
    end
end


if have("stack_item", "stack_copy", "stack_shift", "stack_free", "connection", "use", "clear_errors") then
    -- The leaf of a parsed chain, and the others as a stack of their own. Both are valid as long as the chain is.
    function _M.split(chain)
        local leaf = C.ssl_cert_server_stack_item(chain, 0)
        local rest = C.ssl_cert_server_stack_copy(chain)
        if leaf == nil or rest == nil then
            return nil
        end
        C.ssl_cert_server_stack_shift(rest)
        return leaf, ffi.gc(rest, C.ssl_cert_server_stack_free)
    end


    -- Gives this handshake a certificate, in one call instead of lua-resty-core's two. Where there is nothing but a
    -- leaf, that is told, too: OpenSSL would otherwise search for a chain in each handshake.
    function _M.use(leaf, rest, key)
        local pointer = connection()
        if not pointer then
            return nil, "no connection"
        end
        if C.ssl_cert_server_use(pointer, leaf, key, rest, 1) ~= 1 then
            C.ssl_cert_server_clear_errors()
            return nil, "SSL_use_cert_and_key() failed"
        end
        return true
    end
end


if _M.use and have("method", "new_context", "new_connection", "context", "set_context", "level", "set_level", "clear",
    "last_error", "reason")
then
    local trial  -- a connection to nobody
    local level  -- the lowest security level that a handshake here had; OpenSSL's default until there was one

    -- nil where there is no memory for one.
    local function trial_connection()
        if not trial then
            local context = C.ssl_cert_server_new_context(C.ssl_cert_server_method())
            local pointer = context ~= nil and C.ssl_cert_server_new_connection(context)
            trial = pointer ~= nil and pointer or nil
        end
        return trial
    end


    -- Takes note of this handshake's security level, which `ssl_ciphers` may set.
    function _M.note_level()
        local pointer = connection()
        if pointer then
            level = min(level or MOST_LEVEL, C.ssl_cert_server_level(pointer))
        end
    end


    -- Whether a handshake would take a pair; if not, OpenSSL's reason.
    function _M.accepts(leaf, rest, key)
        local pointer = trial_connection()
        if not pointer then
            return true
        end
        if level then
            C.ssl_cert_server_set_level(pointer, level)
        end
        local accepted = C.ssl_cert_server_use(pointer, leaf, key, rest, 1) == 1
        local reason = not accepted and C.ssl_cert_server_reason(C.ssl_cert_server_last_error()) or nil
        C.ssl_cert_server_clear(pointer)
        C.ssl_cert_server_clear_errors()
        return accepted, reason ~= nil and ffi.string(reason) or "no reason given"
    end


    -- Gives this handshake nginx's own certificates back. OpenSSL copies them only from another context.
    function _M.restore()
        local pointer, other = connection(), trial_connection()
        if pointer and other then
            local own = C.ssl_cert_server_context(pointer)
            C.ssl_cert_server_set_context(pointer, C.ssl_cert_server_context(other))
            C.ssl_cert_server_set_context(pointer, own)
        end
    end
end


if have("connection", "version", "options", "scheme") then
    local low, high = ffi.new("unsigned char[1]"), ffi.new("unsigned char[1]")

    -- Which of two lists has the signature scheme that OpenSSL will choose: 1, 2, or nil where that can't be told. In
    -- TLS 1.3 it is the first usable one of the client's. Before, it follows from the cipher, which is chosen later.
    function _M.choose(first, second)
        local pointer = connection()
        if not pointer or C.ssl_cert_server_version(pointer) ~= TLS13
            or bit.band(tonumber(C.ssl_cert_server_options(pointer) % 2 ^ 32), SERVER_PREFERENCE) ~= 0
        then
            return nil
        end
        local count = C.ssl_cert_server_scheme(pointer, -1, nil, nil, nil, nil, nil)
        for index = 0, min(count, MOST_SCHEMES) - 1 do
            C.ssl_cert_server_scheme(pointer, index, nil, nil, nil, low, high)
            local scheme = high[0] * 256 + low[0]
            if first[scheme] then
                return 1
            elseif second[scheme] then
                return 2
            end
        end
    end
end


return _M
