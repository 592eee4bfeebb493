-- ARGV: how many at once, milliseconds for which counters stay after their window, how many counters to pass over. Gives
-- how many holds expired, how many counters were dropped, and how many were passed over because something is held there.

local most = tonumber(ARGV[1])
local expired = expire(most)
local dropped, kept = 0, 0
local old = redis.call('ZRANGEBYSCORE', P .. ':ends', '-inf', int(NOW - tonumber(ARGV[2])), 'LIMIT', ARGV[3], most)
for _, key in ipairs(old) do
  if tonumber(redis.call('HGET', counter_of(key), 'held') or 0) == 0 then
    drop(key)
    dropped = dropped + 1
  else
    kept = kept + 1
  end
end
return {expired, dropped, kept}
