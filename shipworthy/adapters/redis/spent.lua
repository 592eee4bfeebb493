-- ARGV: tenant, keys as JSON. Gives spent and held of each, one after the other.

local found = {}
for _, key in ipairs(cjson.decode(ARGV[2])) do
  local of = redis.call('HMGET', counter_of(key), 'tenant', 'spent', 'held')
  local visible = of[1] and (of[1] == '' or of[1] == ARGV[1])
  table.insert(found, visible and of[2] or '0')
  table.insert(found, visible and of[3] or '0')
end
return found
