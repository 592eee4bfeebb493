-- ARGV: how many. Gives the changes, newest first, each as its fields and values.

local found = {}
for _, entry in ipairs(redis.call('XREVRANGE', P .. ':changes', '+', '-', 'COUNT', ARGV[1])) do
  table.insert(found, entry[2])
end
return found
