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
  UNIQUE (tenant, run_id)
) STRICT;

CREATE INDEX runs_newest  ON runs (tenant, started_at, key);
CREATE INDEX runs_session ON runs (tenant, user, session, position);
CREATE INDEX runs_running ON runs (worker) WHERE status = 'running';
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
