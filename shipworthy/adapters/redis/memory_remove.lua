-- ARGV: token, the next epoch, ids. Gives {how many there were, how many are left}.

local token, fresh = ARGV[1], ARGV[2]
local known = answered(token)
if known then return known end

local removed = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('HDEL', INDEX, id) == 1 then
    removed = removed + 1
    redis.call('HDEL', DATA, id)
    redis.call('ZREM', ORDER, id)
    for _, kind in ipairs(KINDS) do redis.call('ZREM', ORDER .. ':' .. kind, id) end
  end
end
local left = redis.call('HLEN', INDEX)
if removed == 0 then return {0, left} end
if left == 0 then
  redis.call('DEL', keys_of_records())
else
  redis.call('HSET', META, 'epoch', fresh)
end
return answer(token, removed, left)
