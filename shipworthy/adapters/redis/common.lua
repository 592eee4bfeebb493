-- What all scripts share; each is sent as this text and its own. A script runs alone, so that each is one atomic step.
--
-- Keys, all of them behind KEYS[1], which is "{prefix}" and keeps them on one node of a cluster:
--   :counter:<key>   hash     account, unit, window, limit, start, end; spent, held, warned; epoch: its resets
--   :limit:<limit>   zset     the counters under a limit, by the start of their windows
--   :tenant:<name>   set      the limits of a tenant ('' of everybody)
--   :kind:<level>:<unit>:<window>   set   the limits of a kind
--   :ends            zset     counters by the end of their windows; those that never end are not in it
--   :hold:<id>       hash     tenant, state, units, early, near; lines and rates while they are needed; note, warned
--   :held            zset     holds by when they expire
--   :queue:<key>     zset     who waits for a counter, by ticket
--   :place:<id>      hash     the key that a hold waits for, its ticket and its tenant; is gone when it was not kept
--   :tickets         string   the latest ticket
--   :rate:<key>      hash     owed: the microsecond until which what has passed a rate is paid for; idle: when some was
--                             last taken of it while nothing was owed
--   :caps            hash     overrides by limit
--   :changes         stream   what operators did
--   :asked:<id>      string   the answer to an operator whose question may come twice
--
-- Numbers are exact below 2^53. They leave Lua through `int`, for tostring and cjson.encode round to 14 digits.

local P = KEYS[1]
local DAY = 86400000
local PLACE = 5000
local FAR = 9e15

local function int(number)
  if number == 0 then return '0' end -- and not '-0'
  return string.format('%.0f', number)
end

local function minus(digits) return digits == '0' and '0' or '-' .. digits end

local time = redis.call('TIME')
local NOW = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function counter_of(key) return P .. ':counter:' .. key end
local function epoch_of(key) return redis.call('HGET', counter_of(key), 'epoch') or '0' end

-- The counter of a line, made where there is none.
local function counter(line)
  local name, account = counter_of(line.key), line.account
  if redis.call('EXISTS', name) == 1 then return name end
  redis.call('HSET', name, 'level', account.level, 'tenant', account.tenant, 'name', account.name, 'unit', line.unit,
    'window', line.window, 'limit', line.limit, 'start', int(line.start), 'end', int(line['end']), 'spent', '0', 'held', '0')
  redis.call('ZADD', P .. ':limit:' .. line.limit, int(line.start), line.key)
  redis.call('SADD', P .. ':tenant:' .. account.tenant, line.limit)
  redis.call('SADD', P .. ':kind:' .. account.level .. ':' .. line.unit .. ':' .. line.window, line.limit)
  if line['end'] > 0 then redis.call('ZADD', P .. ':ends', int(line['end']), line.key) end
  return name
end

-- Forget a counter, and its limit with the last one.
local function drop(key)
  local name = counter_of(key)
  local of = redis.call('HMGET', name, 'limit', 'tenant', 'level', 'unit', 'window')
  redis.call('DEL', name, P .. ':queue:' .. key)
  redis.call('ZREM', P .. ':ends', key)
  if not of[1] then return end
  local limit = P .. ':limit:' .. of[1]
  redis.call('ZREM', limit, key)
  if redis.call('EXISTS', limit) == 0 then
    redis.call('SREM', P .. ':tenant:' .. of[2], of[1])
    redis.call('SREM', P .. ':kind:' .. of[3] .. ':' .. of[4] .. ':' .. of[5], of[1])
  end
end

-- Add digits to what a counter has held and spent; true if that is what brought it to its warning. A counter of a run
-- that has ended is not there any more.
local function move(key, soft, held, spent)
  local name = counter_of(key)
  if redis.call('EXISTS', name) == 0 then return false end
  if held ~= '0' then redis.call('HINCRBY', name, 'held', held) end
  local sum = redis.call('HINCRBY', name, 'spent', spent)
  if sum < 0 then redis.call('HSET', name, 'spent', '0') end
  return soft > 0 and sum >= soft and redis.call('HSETNX', name, 'warned', '1') == 1
end

-- Charge overdue holds in full, *most* at once, and note in which epoch of their counters. Gives how many.
local function expire(most)
  local due = redis.call('ZRANGEBYSCORE', P .. ':held', '-inf', int(NOW), 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local name = P .. ':hold:' .. id
    local lines = redis.call('HGET', name, 'lines')
    if lines then
      lines = cjson.decode(lines)
      for _, line in ipairs(lines) do
        move(line[1], 0, minus(line[3]), line[3])
        line[4] = epoch_of(line[1])
      end
      redis.call('HSET', name, 'state', 'expired', 'lines', cjson.encode(lines))
      redis.call('PEXPIRE', name, DAY)
    end
    redis.call('ZREM', P .. ':held', id)
  end
  return #due
end

local function give_up_place(id, tenant)
  local name = P .. ':place:' .. id
  local place = redis.call('HMGET', name, 'key', 'tenant')
  if place[1] and place[2] == tenant then
    redis.call('DEL', name)
    redis.call('ZREM', P .. ':queue:' .. place[1], id)
  end
end

-- ceil(amount * period / limit), all whole: where the product is no exact number any more, by long division.
local function cost(amount, period, limit)
  local left = math.fmod(amount, limit)
  local whole = (amount - left) / limit * period
  local part = 0
  if left * period < FAR then
    local product = left * period
    part = (product - math.fmod(product, limit)) / limit
    left = math.fmod(product, limit)
  else
    local times, bit, rest = left, 1, 0
    while bit * 2 <= period do bit = bit * 2 end
    while bit >= 1 do
      part, rest = part * 2, rest * 2
      if period >= bit then
        period, rest = period - bit, rest + times
      end
      while rest >= limit do
        part, rest = part + 1, rest - limit
      end
      bit = bit / 2
    end
    left = rest
  end
  if left > 0 then part = part + 1 end
  return math.min(whole + part, FAR)
end

-- Note until when what has passed a rate is paid for. A day after that, nobody needs to know.
local function owe(key, micros)
  micros = math.min(micros, FAR)
  redis.call('HSET', P .. ':rate:' .. key, 'owed', int(micros))
  redis.call('PEXPIREAT', P .. ':rate:' .. key, int(math.max(math.ceil(micros / 1000), NOW) + DAY))
end
