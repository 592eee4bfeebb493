-- ARGV: n after which, at most how many, the kind ('' for any), and bytes after which there is no further one. Gives 1 if
-- there are more, then n, index and data of each.

local order = ARGV[3] == '' and ORDER or ORDER .. ':' .. ARGV[3]
local found, more = sized({0}, numbered(order, ARGV[1], ARGV[2] + 1), tonumber(ARGV[2]), tonumber(ARGV[4]), true)
found[1] = more
return found
