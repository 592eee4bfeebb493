-- ARGV: "tenant" and its name, or "kind" and its name. Gives the limits.

return redis.call('SMEMBERS', P .. ':' .. ARGV[1] .. ':' .. ARGV[2])
