-- What the server says of itself, on the node that has our keys.

return {redis.call('INFO', 'memory'), redis.call('INFO', 'persistence'), redis.call('INFO', 'replication')}
