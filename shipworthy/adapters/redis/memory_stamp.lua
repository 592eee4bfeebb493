-- ARGV: format; then, for a stamp: "replace" or '', terms, embedder, dimensions. Gives the format and the stamp that is
-- there now, or the format alone.

local store = P .. ':store'
redis.call('HSETNX', store, 'format', ARGV[1])
local there = redis.call('HGET', store, 'format')
if there ~= ARGV[1] or #ARGV == 1 then return {there} end
if ARGV[2] ~= '' or redis.call('HEXISTS', store, 'terms') == 0 then
  redis.call('HSET', store, 'terms', ARGV[3], 'embedder', ARGV[4], 'dimensions', ARGV[5])
end
local stamp = redis.call('HMGET', store, 'terms', 'embedder', 'dimensions')
return {there, stamp[1], stamp[2], stamp[3]}
