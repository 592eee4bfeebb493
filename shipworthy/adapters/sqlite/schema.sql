-- Format 1 of the database file (PRAGMA user_version). Times are milliseconds since the Unix epoch, except
-- workers.lease_until, which is on the boot-time clock of the machine whose boot it names.

CREATE TABLE runs (
  key        INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again after pruning: a stale fence must not fit a new run
  tenant     TEXT NOT NULL,
  user       TEXT,
  session    TEXT,
  run_id     TEXT NOT NULL,
  status     TEXT NOT NULL,
  fence      INTEGER NOT NULL,                   -- grows with every change of owner
  worker     TEXT,                               -- NULL: released
  head       INTEGER NOT NULL,                   -- the last event's sequence number
  started_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  position   INTEGER,                            -- among the ended runs of its session, from 1
  tail       INTEGER NOT NULL,                   -- journal.id of the last batch
  before     INTEGER,                            -- and of the one before it
  expired    INTEGER NOT NULL DEFAULT 0,         -- 1: claimed from a stopped worker, and nothing was committed since
  wake_at    INTEGER,                            -- paused: when somebody is to look again; of the last batch
  root       TEXT,                               -- of a nested run: the outermost run's run_id
  UNIQUE (tenant, run_id)
) STRICT;

CREATE INDEX runs_newest  ON runs (tenant, started_at, key);
CREATE INDEX runs_session ON runs (tenant, user, session, position);
CREATE INDEX runs_running ON runs (worker) WHERE status = 'running';
CREATE INDEX runs_due     ON runs (wake_at, key) WHERE status = 'paused' AND wake_at IS NOT NULL;
CREATE INDEX runs_ended   ON runs (key) WHERE status NOT IN ('running', 'paused');

-- One row for each batch, in the order of arrival, so that batches that share a commit share pages. A run's batches are
-- a chain from its tail back to its first: an index by run would dirty another page for each run in each commit.
CREATE TABLE journal (
  id     INTEGER PRIMARY KEY,
  run    INTEGER NOT NULL,
  prev   INTEGER,
  first  INTEGER NOT NULL,
  last   INTEGER NOT NULL,
  events BLOB NOT NULL                           -- JSON, UTF-8
) STRICT;

CREATE TABLE bodies (
  id     INTEGER PRIMARY KEY,
  run    INTEGER NOT NULL,
  digest TEXT NOT NULL,                          -- SHA-256, hex
  data   BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX bodies_once ON bodies (run, digest);

CREATE TABLE workers (
  id          TEXT PRIMARY KEY,
  boot        TEXT NOT NULL,
  lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The store's own keys, by `nth`, the highest for signing. Of one that was dropped the name is kept, so that it does not
-- come back with what another store had.
CREATE TABLE signing_keys (
  nth     INTEGER PRIMARY KEY,
  id      TEXT NOT NULL UNIQUE,
  secret  BLOB,                                  -- NULL: dropped
  made_at INTEGER NOT NULL
) STRICT;

-- What was said yes to for a user, beyond one run. One that was revoked stays until it would have expired, as above.
CREATE TABLE grants (
  nth        INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant     TEXT NOT NULL,
  id         TEXT NOT NULL,
  user       TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  revoked    INTEGER NOT NULL DEFAULT 0,
  data       BLOB NOT NULL,                      -- JSON, UTF-8; empty: revoked
  UNIQUE (tenant, id)
) STRICT;

CREATE INDEX grants_user ON grants (tenant, user);

-- The ledger. Its times are on the wall clock, so that windows and holds outlive a reboot. Amounts are whole numbers;
-- money in billionths of a US dollar.

CREATE TABLE counters (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,    -- never used again: a late settlement must not charge another counter
  key      TEXT NOT NULL UNIQUE,
  level    TEXT NOT NULL,
  tenant   TEXT NOT NULL,                        -- empty: everybody's
  name     TEXT NOT NULL,
  unit     TEXT NOT NULL,
  "window" TEXT NOT NULL,
  start    INTEGER NOT NULL,
  "end"    INTEGER NOT NULL,                     -- 0: never
  spent    INTEGER NOT NULL DEFAULT 0,
  held     INTEGER NOT NULL DEFAULT 0,
  warned   INTEGER NOT NULL DEFAULT 0            -- 1: the warning was given
) STRICT;

CREATE INDEX counters_account ON counters (tenant, level, name, unit, "window");

CREATE TABLE holds (
  id      TEXT NOT NULL UNIQUE,
  tenant  TEXT NOT NULL,
  state   TEXT NOT NULL,                         -- held, expired or done
  due     INTEGER NOT NULL,                      -- held: when it expires; otherwise: when it is forgotten
  ttl     INTEGER NOT NULL,                      -- held: how long it may be until then
  lines   TEXT NOT NULL,                         -- JSON: [counters.id, reserved, soft] for each line; true: written off
  rates   TEXT,                                  -- JSON: when it was taken, and [rate, reserved] for each rate
  note    TEXT NOT NULL,
  granted TEXT NOT NULL,                         -- JSON: the answer that it got
  settled TEXT                                   -- JSON: what it was charged, once that is known
) STRICT;

CREATE INDEX holds_due ON holds (state, due, ttl);

-- Who waits, in the order of the tickets on all counters; each before one of them.
CREATE TABLE places (
  ticket  INTEGER PRIMARY KEY,
  hold    TEXT NOT NULL UNIQUE,
  tenant  TEXT NOT NULL,
  counter INTEGER NOT NULL,
  until   INTEGER NOT NULL
) STRICT;

CREATE INDEX places_order ON places (counter, ticket);

CREATE TABLE rates (
  key     TEXT PRIMARY KEY,
  owed    INTEGER NOT NULL,                      -- microseconds since the Unix epoch
  idle_at INTEGER NOT NULL                       -- milliseconds: when something last passed while nothing was owed
) STRICT, WITHOUT ROWID;

-- Caps that an operator set in place of the configured ones.
CREATE TABLE caps (
  "limit" TEXT PRIMARY KEY,
  cap     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
  id       INTEGER PRIMARY KEY,
  at       INTEGER NOT NULL,
  action   TEXT NOT NULL,                        -- set or reset
  level    TEXT NOT NULL,
  tenant   TEXT NOT NULL,
  name     TEXT NOT NULL,
  unit     TEXT NOT NULL,
  "window" TEXT NOT NULL,
  amount   INTEGER,
  who      TEXT NOT NULL,
  why      TEXT NOT NULL
) STRICT;

-- What came here from the ledger of another store, by counter: so much is not carried again.
CREATE TABLE carried (
  origin TEXT NOT NULL,                          -- what the other store is called
  key    TEXT NOT NULL,                          -- counters.key
  amount INTEGER NOT NULL,
  PRIMARY KEY (origin, key)
) STRICT, WITHOUT ROWID;

-- Audit logs: docs/reference/audit-format.md. An entry's id is the log's key << 40 | its number, so that entries are
-- appended at the end of one tree; a checkpoint's is the key << 40 | how many entries it covers.
CREATE TABLE audit_logs (
  key      INTEGER PRIMARY KEY AUTOINCREMENT,    -- never used again: entries that are left of a log fit no other one
  name     TEXT NOT NULL UNIQUE,
  standing BLOB NOT NULL,                        -- JSON, UTF-8: where the log stands
  seal     BLOB NOT NULL,
  settled  INTEGER NOT NULL DEFAULT 0            -- grows where a commit is there for its sync alone
) STRICT;

CREATE TABLE audit_entries (
  id    INTEGER PRIMARY KEY,
  line  BLOB NOT NULL,                           -- without a newline
  salt  BLOB,                                    -- NULL: there is no body, or it was erased
  body  BLOB,                                    -- NULL: it is an event of the journal, if there is one
  run   INTEGER,                                 -- then: runs.key
  batch INTEGER                                  -- and journal.id
) STRICT;

CREATE TABLE audit_checkpoints (
  id   INTEGER PRIMARY KEY,
  line BLOB NOT NULL
) STRICT;
