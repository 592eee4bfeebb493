-- ARGV: place; 16 bytes that nobody else has, and the scope.

redis.call('HSET', P .. ':registered', ARGV[1], ARGV[2])
redis.call('ZADD', P .. ':places', 0, ARGV[1])
