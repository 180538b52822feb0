-- What status() tells: figures, and the state of things. No names, tokens or keys.

local cjson = require "cjson.safe"

local floor = math.floor
local ipairs = ipairs

local _M = {}


local function backends(client)
    local list, current = {}, client:current()
    for index, backend in ipairs(client.members) do
        local failures = backend:failures()
        list[index] = {
            address = backend.id, state = failures == 0 and "up" or "down", failures = failures,
            current = index == current,
        }
    end
    return list
end


-- The JSON of an instance's status.
function _M.render(instance)
    local dict, store = instance.dict, instance.store
    local workers = ngx.worker.count()
    local age = instance.changes:age()
    return cjson.encode({
        version = instance._VERSION,
        workers = workers,
        cache = {
            worker_entries = instance.counters:gauge("entries", workers),
            worker_capacity = instance.lru_maxitems,
            dict = store.dict_name,
            dict_capacity = dict:capacity(),
            dict_free = dict:free_space(),
        },
        jobs = {
            fetching = instance.counters:gauge("fetching", workers),
            waiting = instance.counters:gauge("waiting", workers),
        },
        counters = instance.counters:totals(),
        changes = {
            supported = age ~= nil,
            answered_ago = age and floor(age * 10) / 10 or cjson.null,
        },
        backends = backends(instance.client),
    })
end


return _M
