-- ARGV: place, and who registered it. A place that somebody registered since then stays.

if redis.call('HGET', P .. ':registered', ARGV[1]) == ARGV[2] then
  redis.call('HDEL', P .. ':registered', ARGV[1])
  redis.call('ZREM', P .. ':places', ARGV[1])
end
