-- version 1
-- The format of a memory's tables is `memory_meta.version`; the statements below `version N` make it N. Times are
-- milliseconds since the Unix epoch. Names of tenants, users and sessions, and ids, are UTF-8 of any text.

CREATE TABLE memory_meta (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  version    INTEGER NOT NULL,
  partitions INTEGER NOT NULL DEFAULT 0,         -- the highest key that a partition had: none is used again
  stamp      BLOB                                -- JSON, UTF-8
) STRICT;

INSERT INTO memory_meta (one, version) VALUES (1, 0);

CREATE TABLE memory_partitions (
  key     INTEGER PRIMARY KEY CHECK (key BETWEEN 1 AND 2147483647),
  tenant  BLOB NOT NULL,
  user    BLOB NOT NULL,                         -- empty: none; otherwise a sign, and the name
  session BLOB NOT NULL,                         -- so too
  epoch   INTEGER NOT NULL,                      -- random: another one after each removal
  n       INTEGER NOT NULL CHECK (n < 4294967295),  -- the highest that a record had
  UNIQUE (tenant, user, session)
) STRICT;

-- What has to be made again before nothing that was removed is left in it: see memory_erasing.py.
CREATE TABLE memory_unclean (
  name  TEXT PRIMARY KEY,
  state INTEGER NOT NULL                         -- 1: something was removed; another number: the WAL is yet to be cut
) STRICT, WITHOUT ROWID;

-- version 1, each shelf
-- Records are on several shelves, so that making one of them again is short work. All those of a tenant's user are on
-- one. A record's place is its partition's key and its own number: an index that is made in the process reads on from
-- where it was in one run over the table.

CREATE TABLE memory_records_{shelf} (
  place     INTEGER PRIMARY KEY,                 -- partition << 32 | n
  id        BLOB NOT NULL,
  kind      TEXT NOT NULL,
  at        INTEGER NOT NULL,
  weight    REAL NOT NULL,
  terms     BLOB NOT NULL,
  vector    BLOB NOT NULL,
  data      BLOB NOT NULL,
  partition INTEGER NOT NULL GENERATED ALWAYS AS (place >> 32) VIRTUAL
) STRICT;

CREATE UNIQUE INDEX memory_ids_{shelf} ON memory_records_{shelf} (partition, id);
