-- ARGV: n after which, at most how many, and the kind ('' for any). Gives n, index and data of each.

local found = {}
local order = ARGV[3] == '' and ORDER or ORDER .. ':' .. ARGV[3]
local records = numbered(order, ARGV[1], ARGV[2])
for i = 1, #records, 2 do
  table.insert(found, records[i + 1])
  table.insert(found, redis.call('HGET', INDEX, records[i]))
  table.insert(found, redis.call('HGET', DATA, records[i]))
end
return found
