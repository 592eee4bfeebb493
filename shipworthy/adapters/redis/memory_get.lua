-- ARGV: ids. Gives n, index and data of each, nothing for one that is not there.

local found = {}
for _, id in ipairs(ARGV) do
  local index = redis.call('HGET', INDEX, id)
  if index then
    table.insert(found, redis.call('ZSCORE', ORDER, id))
    table.insert(found, index)
    table.insert(found, redis.call('HGET', DATA, id))
  end
end
return found
