-- ARGV: token; "replace" or ''; epoch and n at which the partition has to be ('' for any); the epoch of a new one; what
-- was drawn before it was registered ('' at first); then id, kind, index and data of each record.
-- Gives {"at", epoch, n}, {"conflict"}, or {"register", what was drawn}: register it, and ask again.

local token, replace, epoch, n, fresh, drawn = unpack(ARGV, 1, 6)
local known = answered(token)
if known then return known end

local here, last = mark()
if epoch ~= '' and (here ~= epoch or last ~= n) then return {'conflict'} end

local writing = {}
for i = 7, #ARGV, 4 do
  if replace ~= '' or redis.call('HEXISTS', INDEX, ARGV[i]) == 0 then table.insert(writing, i) end
end
if #writing == 0 then return {'at', here, last} end

if here == '0' then
  local opening = redis.call('GET', OPENING)
  if not opening or opening ~= drawn then
    if not opening then redis.call('SET', OPENING, token, 'PX', MINUTE) end
    return {'register', opening or token}
  end
  redis.call('DEL', OPENING)
  redis.call('HSET', META, 'epoch', fresh, 'n', '0')
  here = fresh
end

-- A server that was started anew, or took over, may have forgotten the latest numbers, which others have read.
local by = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local before = redis.call('HGET', META, 'by')
if before ~= by then
  redis.call('HSET', META, 'by', by)
  if before then
    redis.call('HSET', META, 'epoch', fresh)
    here = fresh
  end
end

for _, i in ipairs(writing) do
  local id, kind = ARGV[i], ARGV[i + 1]
  last = redis.call('HINCRBY', META, 'n', 1)
  redis.call('HSET', INDEX, id, ARGV[i + 2])
  redis.call('HSET', DATA, id, ARGV[i + 3])
  redis.call('ZADD', ORDER, last, id)
  for _, other in ipairs(KINDS) do
    if other ~= kind then redis.call('ZREM', ORDER .. ':' .. other, id) end
  end
  redis.call('ZADD', ORDER .. ':' .. kind, last, id)
end
return answer(token, 'at', here, string.format('%.0f', last))
