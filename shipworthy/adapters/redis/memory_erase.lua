-- Gives how many records there were. Whoever was about to make the partition has to register it again.

local records = redis.call('HLEN', INDEX)
redis.call('UNLINK', OPENING, ANSWERS, keys_of_records())
return records
