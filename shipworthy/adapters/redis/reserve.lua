-- ARGV: the hold as JSON. Gives {1, units, warned, near} or {0, cause, index, cap, spent, held, needed, wait}.

local hold = cjson.decode(ARGV[1])
local name = P .. ':hold:' .. hold.id
local micros = NOW * 1000

local known = redis.call('HMGET', name, 'units', 'early', 'near')
if known[1] then return {1, known[1], known[2], known[3]} end

-- Whether somebody waits for a counter who came before; places that were not kept are cleared away.
local function is_behind(key)
  local queue = P .. ':queue:' .. key
  while true do
    local first = redis.call('ZRANGE', queue, 0, 0)[1]
    if not first or first == hold.id then return false end
    if redis.call('HGET', P .. ':place:' .. first, 'key') == key then return true end
    redis.call('ZREM', queue, first)
  end
end

-- The units that every cap affords, or nil and what to say.
local function judge_lines()
  local units, caps, counters = hold.most, {}, {}
  local function refused(cause, i, needed)
    local found = counters[i]
    return nil, {0, cause, int(i - 1), int(caps[i]), found[1] or '0', found[2] or '0', int(needed), '0'}
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
    if is_behind(line.key) or needed > caps[i] - spent - held then return refused('held', i, needed) end
  end
  return units
end

local function owed(rate)
  return math.max(tonumber(redis.call('GET', P .. ':rate:' .. rate.key) or 0), micros)
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

-- A patient hold's place in the order is before the line that is full, and nowhere else.
local function keep_place(refused)
  if refused[2] ~= 'held' or not hold.patient then return give_up_place(hold.id, hold.tenant) end
  local line = hold.lines[tonumber(refused[3]) + 1]
  local place, queue = P .. ':place:' .. hold.id, P .. ':queue:' .. line.key
  counter(line)
  if redis.call('HGET', place, 'key') ~= line.key then give_up_place(hold.id, hold.tenant) end
  if not redis.call('ZSCORE', queue, hold.id) then
    redis.call('ZADD', queue, redis.call('INCR', P .. ':tickets'), hold.id)
  end
  redis.call('HSET', place, 'key', line.key, 'tenant', hold.tenant)
  redis.call('PEXPIRE', place, PLACE)
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
    owe(rate.key, owed(rate) + due)
    rates[i] = {rate.key, int(rate.limit), int(rate.period * 1000), int(due)}
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

local units, refused = judge_lines()
if refused and refused[2] == 'held' and expire(1000) > 0 then units, refused = judge_lines() end
if units then refused = judge_rates(units) end
if not refused then return grant(units) end
keep_place(refused)
return refused
