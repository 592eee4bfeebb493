-- ARGV: from and to, as ZRANGEBYLEX has them, and at most how many (-1: all). Gives each place and who registered it.

local found = {}
for _, place in ipairs(redis.call('ZRANGEBYLEX', P .. ':places', ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  table.insert(found, place)
  table.insert(found, redis.call('HGET', P .. ':registered', place))
end
return found
