-- ARGV: tenant, milliseconds from now, holds as JSON.

for _, id in ipairs(cjson.decode(ARGV[3])) do
  local hold = redis.call('HMGET', P .. ':hold:' .. id, 'tenant', 'state')
  if hold[1] == ARGV[1] and hold[2] == 'held' then
    redis.call('ZADD', P .. ':held', int(NOW + tonumber(ARGV[2])), id)
  end
end
