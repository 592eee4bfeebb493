-- ARGV: "" or "close", which makes whoever was about to make the partition register it again.
-- Gives 1 where there is a partition.

local there = redis.call('EXISTS', META)
if there == 0 and ARGV[1] == 'close' then redis.call('DEL', OPENING) end
return there
