-- What all scripts of a memory share; each is sent as this text and its own. A script runs alone, so that each is one
-- atomic step.
--
-- Keys of a partition, all of them behind KEYS[1], which is "{prefix:memory:place}" and keeps them on one node of a cluster:
--   :meta      hash   epoch, n; by: the server that wrote last
--   :data      hash   what each record says, by id
--   :index     hash   what each is found by, by id
--   :order     zset   ids by n
--   :order:<kind>   zset   those of a kind
--   :opening   string   whoever makes the partition has to have registered it since this was drawn
--   :answers   list   the latest answers, each behind its token: a question may come twice, and is done once
-- Keys of the directory, behind "{prefix:memory}":
--   :store     hash   format; terms, embedder, dimensions
--   :places    zset   places of the partitions that were registered, by their text
--   :registered   hash   by place: 16 bytes of whoever registered it last, and the scope

local P = KEYS[1]
local META, DATA, INDEX, ORDER = P .. ':meta', P .. ':data', P .. ':index', P .. ':order'
local OPENING, ANSWERS = P .. ':opening', P .. ':answers'
local KINDS = {'episode', 'fact', 'block', 'topic'}
local MINUTE = 60000

-- The partition's epoch and n; '0' and '0' where there is none.
local function mark()
  local found = redis.call('HMGET', META, 'epoch', 'n')
  if found[1] then return found[1], found[2] end
  return '0', '0'
end

local function answered(token)
  for _, known in ipairs(redis.call('LRANGE', ANSWERS, 0, -1)) do
    if string.sub(known, 1, #token) == token then return cjson.decode(string.sub(known, #token + 1)) end
  end
end

local function answer(token, ...)
  local said = {...}
  redis.call('RPUSH', ANSWERS, token .. cjson.encode(said))
  redis.call('LTRIM', ANSWERS, -64, -1)
  redis.call('PEXPIRE', ANSWERS, MINUTE)
  return said
end

local function keys_of_records()
  local keys = {META, DATA, INDEX, ORDER}
  for _, kind in ipairs(KINDS) do table.insert(keys, ORDER .. ':' .. kind) end
  return unpack(keys)
end

-- Ids and their n, those above *after*.
local function numbered(order, after, limit)
  return redis.call('ZRANGEBYSCORE', order, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
end

-- *found*, and after it n and index (and, *whole*, data) of some of these records, and whether there are more: at most
-- *limit*, and none after *most* bytes.
local function sized(found, records, limit, most, whole)
  local size = 0
  for i = 1, #records, 2 do
    if i > 2 * limit or size >= most then return found, 1 end
    local index = redis.call('HGET', INDEX, records[i])
    table.insert(found, records[i + 1])
    table.insert(found, index)
    size = size + #index
    if whole then
      local data = redis.call('HGET', DATA, records[i])
      table.insert(found, data)
      size = size + #data
    end
  end
  return found, 0
end
