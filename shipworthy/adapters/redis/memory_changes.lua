-- ARGV: epoch and n since which, and at most how many. Gives the partition's epoch and n, then n and index of each.

local here, last = mark()
local found = {here, last}
local records = numbered(ORDER, here == ARGV[1] and ARGV[2] or '0', ARGV[3])
for i = 1, #records, 2 do
  table.insert(found, records[i + 1])
  table.insert(found, redis.call('HGET', INDEX, records[i]))
end
return found
