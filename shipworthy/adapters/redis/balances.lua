-- ARGV: limits as JSON, "all" or "latest". Gives nine values for each counter: level, tenant, name, unit, window, start,
-- spent, held, and the override ('' for none).

local first = ARGV[2] == 'latest' and -1 or 0
local found = {}
for _, limit in ipairs(cjson.decode(ARGV[1])) do
  local cap = redis.call('HGET', P .. ':caps', limit) or ''
  for _, key in ipairs(redis.call('ZRANGE', P .. ':limit:' .. limit, first, -1)) do
    local fields = {'level', 'tenant', 'name', 'unit', 'window', 'start', 'spent', 'held'}
    for _, value in ipairs(redis.call('HMGET', counter_of(key), unpack(fields))) do
      table.insert(found, value)
    end
    table.insert(found, cap)
  end
end
return found
