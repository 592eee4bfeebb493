-- ARGV: tenant, keys as JSON.

for _, key in ipairs(cjson.decode(ARGV[2])) do
  if redis.call('HGET', counter_of(key), 'tenant') == ARGV[1] then drop(key) end
end
