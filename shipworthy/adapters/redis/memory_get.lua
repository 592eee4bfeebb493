-- ARGV: bytes after which no further one is looked for, and ids. Gives how many were looked for, then n, index and data of
-- each, nothing for one that is not there.

local found, size, most = {0}, 0, tonumber(ARGV[1])
for i = 2, #ARGV do
  local id = ARGV[i]
  local index = redis.call('HGET', INDEX, id)
  if index then
    local data = redis.call('HGET', DATA, id)
    table.insert(found, redis.call('ZSCORE', ORDER, id))
    table.insert(found, index)
    table.insert(found, data)
    size = size + #index + #data
  end
  found[1] = i - 1
  if size >= most then break end
end
return found
