-- ARGV: id of the question, "set" or "reset", limit, cap ('' takes the override back), then level, tenant, name, unit,
-- window, who, why. Gives what had been spent; asked again, the same, and nothing is changed again.

local asked, action, limit, cap = P .. ':asked:' .. ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('GET', asked)
if known then return known end

local was = 0
for _, key in ipairs(redis.call('ZRANGE', P .. ':limit:' .. limit, 0, -1)) do
  local name = counter_of(key)
  if action == 'reset' then
    was = was + tonumber(redis.call('HGET', name, 'spent'))
    redis.call('HSET', name, 'spent', '0')
    redis.call('HINCRBY', name, 'epoch', 1) -- what expired before is not given back when it is settled late
  end
  redis.call('HDEL', name, 'warned')
end
local amount = int(was)
if action == 'set' then
  amount = cap
  if cap == '' then
    redis.call('HDEL', P .. ':caps', limit)
  else
    redis.call('HSET', P .. ':caps', limit, cap)
  end
end
redis.call('XADD', P .. ':changes', '*', 'at', int(NOW), 'action', action, 'level', ARGV[5], 'tenant', ARGV[6], 'name',
  ARGV[7], 'unit', ARGV[8], 'window', ARGV[9], 'who', ARGV[10], 'why', ARGV[11], 'amount', amount)
redis.call('SET', asked, int(was), 'PX', DAY)
return int(was)
