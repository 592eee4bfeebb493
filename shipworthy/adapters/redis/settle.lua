-- ARGV: id, tenant, how, amounts, rates, note. How: "amounts", "full" (all that was reserved) or "release" (nothing, and
-- the place in the order is given up). Amounts (digits) and rates (numbers) are JSON; rates may be '': they are left.
-- Gives {1, note, warned, units}, {0} for no such hold.

local id, tenant, how = ARGV[1], ARGV[2], ARGV[3]
local name = P .. ':hold:' .. id
if how == 'release' then give_up_place(id, tenant) end

local hold = redis.call('HMGET', name, 'tenant', 'state', 'note', 'warned', 'lines', 'rates', 'units')
if not hold[1] or hold[1] ~= tenant then return {0} end
if hold[2] == 'done' then return {1, hold[3], hold[4], hold[7]} end

local lines, rates = cjson.decode(hold[5]), cjson.decode(hold[6])
local amounts = how == 'amounts' and cjson.decode(ARGV[4]) or nil
local used = how == 'amounts' and ARGV[5] ~= '' and cjson.decode(ARGV[5]) or nil
if (amounts and #amounts ~= #lines) or (used and #used ~= #rates) then
  return redis.error_reply('ERR a settlement has one amount for each line and each rate of its hold')
end

local warned = {}
for i, line in ipairs(lines) do
  local back = minus(line[3])
  local amount = line[3]
  if how == 'release' then amount = '0' elseif amounts then amount = amounts[i] end
  local held = back
  if hold[2] == 'expired' then
    local charged = counter_of(line[1])
    if redis.call('EXISTS', charged) == 1 and epoch_of(line[1]) == line[4] then
      redis.call('HINCRBY', charged, 'spent', back)
    end
    held = '0'
  end
  if move(line[1], tonumber(line[2]), held, amount) then table.insert(warned, int(i - 1)) end
end
if used or how == 'release' then
  for i, rate in ipairs(rates) do
    local of = redis.call('HMGET', P .. ':rate:' .. rate[1], 'owed', 'idle')
    if of[1] then
      local due = used and cost(used[i], tonumber(rate[3]), tonumber(rate[2])) or 0
      local more = due - tonumber(rate[4])
      -- what was taken before nothing was owed, time has paid
      if more > 0 or tonumber(rate[5]) >= tonumber(of[2]) then owe(rate[1], tonumber(of[1]) + more) end
    end
  end
end

local note = hold[3]
if how ~= 'full' then note = ARGV[6] end
local reached = table.concat(warned, ',')
redis.call('HDEL', name, 'lines', 'rates')
redis.call('HSET', name, 'state', 'done', 'note', note, 'warned', reached)
redis.call('PEXPIRE', name, DAY)
redis.call('ZREM', P .. ':held', id)
return {1, note, reached, hold[7]}
