-- Spends from one sliding window, in one round trip. The arithmetic is that of domain/rate_limit/window.rs.
--
-- KEYS[1]  the window: the number of its newest bucket, then the counts of that bucket and of the 12 before it
-- ARGV     limit, window in milliseconds, cost, and now in milliseconds (0: use this server's clock)
-- Returns  admitted (0 or 1), the remaining limit, when the remaining limit next grows (ms), and the wait until the
--          cost fits (ms; -1 if it was admitted, or never fits)
--
-- Additionally, for permit leases (domain/rate_limit/permit_lease.rs):
-- ARGV     maximum number of permits to grant; number of permits returned, their bucket, and their window's number
-- Returns  number of permits granted, how long they are valid (ms), their bucket, and this window's number
local limit, window, cost, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The floor of 12 * now / window. Lua numbers are floats: exact for these integers, except for the division.
local scaled = 12 * now
local bucket = math.floor(scaled / window)
if bucket * window > scaled then bucket = bucket - 1 end
if (bucket + 1) * window <= scaled then bucket = bucket + 1 end

local counts, newest, number = {}, bucket, now
for place = 1, 13 do counts[place] = 0 end
local kept = redis.call('GET', KEYS[1])
if kept then
    local read = cmsgpack.unpack(kept)
    newest = read[1]
    for place = 1, 13 do counts[place] = read[place + 1] end
    -- Absent in values written by an older version.
    number = read[15] or 0
end

local steps = bucket - newest
if steps > 0 then
    for place = 13, 1, -1 do counts[place] = counts[place - steps] or 0 end
elseif steps < 0 then
    -- The clock stepped back. Every count moves to a bucket one younger, so that nothing leaves the window early.
    counts[1] = counts[1] + counts[2]
    for place = 2, 12 do counts[place] = counts[place + 1] end
    counts[13] = 0
    -- Permits granted before the step are now in another bucket, so none of them may be returned.
    number = number + 1
end

local changed = steps < 0
local ask = tonumber(ARGV[5])
if ask then
    local back, place = tonumber(ARGV[6]), bucket - tonumber(ARGV[7]) + 1
    if back > 0 and tonumber(ARGV[8]) == number and place >= 1 and place <= 13 then
        counts[place] = math.max(counts[place] - back, 0)
        changed = true
    end
end

local used = 0
for place = 1, 13 do used = used + counts[place] end
local admitted = cost <= math.max(limit - used, 0)
if admitted then
    counts[1] = counts[1] + cost
    used = used + cost
    changed = changed or cost > 0
end

-- Granted permits must be spent before this bucket ends. This clock may be up to a millisecond past `now`.
local given, left = 0, math.floor((bucket + 1) * window / 12) - now - 1
if ask and admitted and cost > 0 and left > 0 then
    given = math.min(ask, math.floor((limit - used) / 16))
    counts[1] = counts[1] + given
    used = used + given
end

-- When the bucket at this place leaves the window: the first millisecond of the 13th bucket after it.
local function leaves_at(place)
    local exact = (bucket + 14 - place) * window
    local at = math.floor(exact / 12)
    if at * 12 < exact then at = at + 1 end
    return at
end

local reset, wait = now, -1
for place = 13, 1, -1 do
    if counts[place] > 0 then
        reset = leaves_at(place)
        break
    end
end
if not admitted and cost <= limit then
    local left = used
    for place = 13, 1, -1 do
        left = left - counts[place]
        if counts[place] > 0 and left <= limit - cost then
            wait = leaves_at(place) - now
            break
        end
    end
end

if changed then
    local kept_now = { bucket }
    for place = 1, 13 do kept_now[place + 1] = counts[place] end
    kept_now[15] = number
    redis.call('SET', KEYS[1], cmsgpack.pack(kept_now), 'PX', math.ceil(window * 14 / 12))
end
local free = math.max(limit - used, 0)
if ask then
    return { admitted and 1 or 0, free, reset, wait, given, left, bucket, number }
end
return { admitted and 1 or 0, free, reset, wait }
