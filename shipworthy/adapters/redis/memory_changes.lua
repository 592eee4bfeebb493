-- ARGV: epoch and n since which, at most how many, and bytes after which there is no further one. Gives the partition's
-- epoch and n, 1 if there are more, then n and index of each. A mark above the partition's is of a server that has
-- forgotten since: everything comes again.

local here, last = mark()
local since = '0'
if here == ARGV[1] and tonumber(ARGV[2]) <= tonumber(last) then since = ARGV[2] end
local found, more = sized({here, last, 0}, numbered(ORDER, since, ARGV[3] + 1), tonumber(ARGV[3]), tonumber(ARGV[4]), false)
found[3] = more
return found
