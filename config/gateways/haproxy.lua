-- Asks Keyward about each request (docs/gateways.md): the action `lua.keyward` of haproxy.cfg.

local url = os.getenv("KEYWARD_FORWARD_AUTH")
local credential = os.getenv("KEYWARD_GATEWAY_KEY")
assert(url and credential, "KEYWARD_FORWARD_AUTH and KEYWARD_GATEWAY_KEY must be set")

-- In milliseconds.
local DECISION_TIMEOUT = 2000

-- What Keyward reads of a request. The others are not sent.
local READ = { "authorization", "x-api-key", "cookie", "origin", "sec-fetch-site", "x-request-id" }

-- For the API. All of them are set, always: a header that is not set here would be the client's own.
local IDENTITY = {
    "x-keyward-key-id", "x-keyward-keyspace", "x-keyward-organization", "x-keyward-instance",
    "x-keyward-environment", "x-keyward-scopes", "x-keyward-name", "x-keyward-subject", "x-keyward-role",
}

-- For the client of a request that passes: header, and variable in haproxy.cfg.
local CLIENT = {
    ["x-request-id"] = "txn.keyward_request_id",
    ["x-ratelimit-limit"] = "txn.keyward_limit",
    ["x-ratelimit-remaining"] = "txn.keyward_remaining",
    ["x-ratelimit-reset"] = "txn.keyward_reset",
}

-- For the client of a request that is refused.
local REFUSAL = {
    "content-type", "cache-control", "www-authenticate", "retry-after", "x-request-id",
    "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
}

-- Headers that HAProxy returns have their values from index 0 on.
local function first(headers, name)
    local values = headers and headers[name]
    return values and values[0]
end

core.register_action("keyward", { "http-req" }, function(txn)
    local given = txn.http:req_get_headers()
    local headers = {
        ["x-keyward-gateway"] = { credential },
        ["x-forwarded-method"] = { txn.f:method() },
        -- As the client sent it, with its query.
        ["x-forwarded-uri"] = { txn.f:pathq() },
        ["x-forwarded-host"] = { first(given, "host") or "" },
        ["x-forwarded-for"] = { txn.f:src() },
    }
    for _, name in ipairs(READ) do
        if given[name] then
            local values = {}
            for index = 0, #given[name] do
                values[index + 1] = given[name][index]
            end
            headers[name] = values
        end
    end
    local answer = core.httpclient():get({ url = url, headers = headers, timeout = DECISION_TIMEOUT })

    -- An answer without an identity is not Keyward's.
    if answer.status == 200 and first(answer.headers, "x-keyward-keyspace") then
        for _, name in ipairs(IDENTITY) do
            txn.http:req_set_header(name, first(answer.headers, name) or "")
        end
        -- One for which there was no room is missing: the request must not pass.
        local set = txn.http:req_get_headers()
        for _, name in ipairs(IDENTITY) do
            if not set[name] then return end
        end
        for name, variable in pairs(CLIENT) do
            local value = first(answer.headers, name)
            if value then txn:set_var(variable, value) end
        end
        txn:set_var("txn.keyward_allowed", true)
        return
    end

    -- Keyward's own refusals are JSON. Everything else is no decision, which haproxy.cfg answers.
    local kind = first(answer.headers, "content-type") or ""
    local refused = { [400] = true, [401] = true, [403] = true, [429] = true, [503] = true }
    if not refused[answer.status] or not kind:find("^application/json") then return end
    local reply = txn:reply({ status = answer.status, body = answer.body })
    for _, name in ipairs(REFUSAL) do
        local value = first(answer.headers, name)
        if value then reply:add_header(name, value) end
    end
    txn:done(reply)
end, 0)
