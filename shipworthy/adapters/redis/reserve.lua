-- ARGV: the hold as JSON. Gives {1, units, warned, near} or {0, cause, index, cap, spent, held, needed, wait}.

local hold = cjson.decode(ARGV[1])
local name = P .. ':hold:' .. hold.id
local micros = NOW * 1000

local known = redis.call('HMGET', name, 'units', 'early', 'near')
if known[1] then return {1, known[1], known[2], known[3]} end

-- The place that the hold has in the order: the key of the line, and a ticket of the first asking, which it keeps
-- wherever it waits. So of those who wait one is behind nobody, and they cannot stand in each other's way for ever.
local place = redis.call('HMGET', P .. ':place:' .. hold.id, 'key', 'ticket', 'tenant')
local here, ticket = place[1], place[2]
if place[3] ~= hold.tenant then here, ticket = false, false end

-- Whether somebody waits for a counter who came before; places that were not kept are cleared away.
local function is_behind(key)
  local queue = P .. ':queue:' .. key
  while true do
    local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
    if not first[1] then return false end
    if redis.call('HGET', P .. ':place:' .. first[1], 'key') == key then
      return first[1] ~= hold.id and (not ticket or tonumber(first[2]) < tonumber(ticket))
    end
    redis.call('ZREM', queue, first[1])
  end
end

-- The units that every cap affords; or nil, what to say, and whether only others who came before are in the way.
local function judge_lines()
  local units, caps, counters = hold.most, {}, {}
  local function refused(cause, i, needed, fits)
    local found = counters[i]
    return nil, {0, cause, int(i - 1), int(caps[i]), found[1] or '0', found[2] or '0', int(needed), '0'}, fits
  end
  for i, line in ipairs(hold.lines) do
    caps[i] = tonumber(redis.call('HGET', P .. ':caps', line.limit) or line.cap)
    counters[i] = redis.call('HMGET', counter_of(line.key), 'spent', 'held')
    local base, each = hold.base[i], hold.each[i]
    local room = caps[i] - tonumber(counters[i][1] or 0) - base
    if room < 0 then
      units = -1
    elseif room < each * units then
      units = (room - math.fmod(room, each)) / each
    end
    if units < hold.least then return refused('spent', i, base + each * hold.least) end
  end
  for i, line in ipairs(hold.lines) do
    local needed = hold.base[i] + hold.each[i] * units
    local spent, held = tonumber(counters[i][1] or 0), tonumber(counters[i][2] or 0)
    local fits = needed <= caps[i] - spent - held
    if not fits or is_behind(line.key) then return refused('held', i, needed, fits) end
  end
  return units
end

local function owed(rate)
  return math.max(tonumber(redis.call('HGET', P .. ':rate:' .. rate.key, 'owed') or 0), micros)
end

-- What the rates say to so many units: nothing, or a refusal.
local function judge_rates(units)
  for i, rate in ipairs(hold.rates) do
    local amount = hold.rate_base[i] + hold.rate_each[i] * units
    local period = rate.period * 1000
    local due = cost(amount, period, rate.limit)
    local early = owed(rate) - micros + due - math.max(cost(rate.burst, period, rate.limit), due)
    if early > 0 then
      return {0, 'rate', int(i - 1), '0', '0', '0', int(amount), int(math.ceil(early / 1000))}
    end
  end
end

-- A patient hold's place in the order is before the line that is full, and nowhere else; where it fits and only others
-- are before it, a place that it has stays where it is.
local function keep_place(refused, fits)
  if refused[2] ~= 'held' or not hold.patient then return give_up_place(hold.id, hold.tenant) end
  local line = hold.lines[tonumber(refused[3]) + 1]
  local key = fits and here or line.key
  if key ~= here then
    counter(line)
    give_up_place(hold.id, hold.tenant)
  end
  local name, queue = P .. ':place:' .. hold.id, P .. ':queue:' .. key
  ticket = ticket or redis.call('INCR', P .. ':tickets')
  redis.call('ZADD', queue, ticket, hold.id)
  redis.call('HSET', name, 'key', key, 'ticket', ticket, 'tenant', hold.tenant)
  redis.call('PEXPIRE', name, PLACE)
  redis.call('PEXPIRE', queue, PLACE)
end

local function grant(units)
  local lines, rates, warned, near = {}, {}, {}, '0'
  for i, line in ipairs(hold.lines) do
    local amount = hold.base[i] + hold.each[i] * units
    local of = counter(line)
    if not hold.final then
      local held = redis.call('HINCRBY', of, 'held', int(amount))
      local was = redis.call('HMGET', of, 'spent', 'warned')
      if line.soft > 0 and not was[2] and tonumber(was[1]) + held >= line.soft then near = '1' end
    elseif move(line.key, line.soft, '0', int(amount)) then
      table.insert(warned, int(i - 1))
    end
    lines[i] = {line.key, int(line.soft), int(amount)}
  end
  for i, rate in ipairs(hold.rates) do
    local due = cost(hold.rate_base[i] + hold.rate_each[i] * units, rate.period * 1000, rate.limit)
    local before = owed(rate)
    owe(rate.key, before + due)
    if before == micros then redis.call('HSET', P .. ':rate:' .. rate.key, 'idle', int(NOW)) end
    rates[i] = {rate.key, int(rate.limit), int(rate.period * 1000), int(due), int(NOW)}
  end
  local early = table.concat(warned, ',')
  redis.call('HSET', name, 'tenant', hold.tenant, 'units', int(units), 'early', early, 'near', near,
    'note', hold.note)
  if hold.final then
    redis.call('HSET', name, 'state', 'done', 'warned', '')
    redis.call('PEXPIRE', name, DAY)
  else
    redis.call('HSET', name, 'state', 'held', 'lines', cjson.encode(lines), 'rates', cjson.encode(rates))
    redis.call('ZADD', P .. ':held', int(NOW + hold.ttl), hold.id)
  end
  give_up_place(hold.id, hold.tenant)
  return {1, int(units), early, near}
end

local units, refused, fits = judge_lines()
if refused and refused[2] == 'held' and expire(1000) > 0 then units, refused, fits = judge_lines() end
if units then refused = judge_rates(units) end
if not refused then return grant(units) end
keep_place(refused, fits)
return refused
