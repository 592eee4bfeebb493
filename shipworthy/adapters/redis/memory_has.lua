-- ARGV: "" or "close", which leaves nothing of a partition that is not there: whoever was about to make it has to
-- register it again.
-- Gives 1 where there is a partition.

local there = redis.call('EXISTS', META)
if there == 0 and ARGV[1] == 'close' then redis.call('DEL', OPENING, ANSWERS) end
return there
