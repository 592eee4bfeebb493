-- What memory keeps in PostgreSQL, and every statement on it (memory_statements.py reads this file).
--
-- A partition is an exact scope; `place` is its name, injective and ending in a slash (memory_places.py). A transaction
-- says which partition it is about, or within which scope, or that it is an operator's, and row-level security shows the
-- rows of that alone. Each statement asks for them once more: %(place)b, %(within)b, %(beyond)b and %(operator)b are
-- given by the one place that opens transactions, and by no caller. Names and ids are bytes, as no text of PostgreSQL
-- holds each of them; and no statistics are kept of what is somebody's, since those would outlive its removal.

-- migration: 1
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'shipworthy_memory') THEN CREATE SCHEMA shipworthy_memory; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shipworthy_app') THEN
    BEGIN CREATE ROLE shipworthy_app NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END;
  END IF;
  BEGIN GRANT shipworthy_app TO CURRENT_USER; EXCEPTION WHEN OTHERS THEN NULL; END; -- a member, or told so later
END $$;
-- `oldest`: the oldest release's format that can still work with this schema.
CREATE TABLE shipworthy_memory.meta (version integer NOT NULL, oldest integer NOT NULL);
CREATE TABLE shipworthy_memory.stamp (one boolean PRIMARY KEY CHECK (one), data bytea NOT NULL);
-- There is one for each partition that has records. `token`: of the last put, which knows by it that it was done.
CREATE TABLE shipworthy_memory.partitions (
  place bytea PRIMARY KEY,
  epoch bigint NOT NULL,
  n     bigint NOT NULL,
  token bigint NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE shipworthy_memory.records (
  place  bytea NOT NULL,
  id     bytea NOT NULL,
  n      bigint NOT NULL,
  kind   text COLLATE "C" NOT NULL,
  at     bigint NOT NULL,
  weight double precision NOT NULL,
  data   bytea NOT NULL,
  terms  bytea NOT NULL,
  vector bytea NOT NULL,
  PRIMARY KEY (place, id),
  UNIQUE (place, n)
);
ALTER TABLE shipworthy_memory.partitions ALTER place SET STATISTICS 0;
ALTER TABLE shipworthy_memory.records ALTER place SET STATISTICS 0, ALTER id SET STATISTICS 0,
  ALTER data SET STATISTICS 0, ALTER terms SET STATISTICS 0, ALTER vector SET STATISTICS 0,
  ALTER at SET STATISTICS 0, ALTER vector SET STORAGE EXTERNAL;

ALTER TABLE shipworthy_memory.partitions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE shipworthy_memory.records ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
-- Each policy has the name of the setting that it asks for. Nothing said, or '', is no row.
CREATE POLICY place ON shipworthy_memory.partitions
  USING (place = decode(nullif(current_setting('shipworthy.memory_place', true), ''), 'hex'));
CREATE POLICY place ON shipworthy_memory.records
  USING (place = decode(nullif(current_setting('shipworthy.memory_place', true), ''), 'hex'));
CREATE POLICY within ON shipworthy_memory.partitions FOR SELECT
  USING (place >= decode(nullif(current_setting('shipworthy.memory_within', true), '') || '2f', 'hex')
    AND place < decode(nullif(current_setting('shipworthy.memory_within', true), '') || '30', 'hex'));
CREATE POLICY within ON shipworthy_memory.records FOR SELECT
  USING (place >= decode(nullif(current_setting('shipworthy.memory_within', true), '') || '2f', 'hex')
    AND place < decode(nullif(current_setting('shipworthy.memory_within', true), '') || '30', 'hex'));
CREATE POLICY within_erased ON shipworthy_memory.partitions FOR DELETE
  USING (place >= decode(nullif(current_setting('shipworthy.memory_within', true), '') || '2f', 'hex')
    AND place < decode(nullif(current_setting('shipworthy.memory_within', true), '') || '30', 'hex'));
CREATE POLICY within_erased ON shipworthy_memory.records FOR DELETE
  USING (place >= decode(nullif(current_setting('shipworthy.memory_within', true), '') || '2f', 'hex')
    AND place < decode(nullif(current_setting('shipworthy.memory_within', true), '') || '30', 'hex'));
CREATE POLICY operator ON shipworthy_memory.partitions FOR SELECT
  USING (current_setting('shipworthy.memory_operator', true) = 'on');

GRANT USAGE ON SCHEMA shipworthy_memory TO shipworthy_app;
GRANT SELECT ON shipworthy_memory.meta TO shipworthy_app;
GRANT SELECT, INSERT, UPDATE ON shipworthy_memory.stamp TO shipworthy_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON shipworthy_memory.partitions TO shipworthy_app;
GRANT SELECT, INSERT, DELETE ON shipworthy_memory.records TO shipworthy_app;
INSERT INTO shipworthy_memory.meta VALUES (1, 1);

-- vectors
-- What `nearest` ranks, where the server has pgvector: a copy of `records.vector`, made for partitions that were asked,
-- up to a record's number. It goes with its record. `embedding` is NULL where the record has none.
CREATE TABLE shipworthy_memory.vectors (
  place     bytea NOT NULL,
  n         bigint NOT NULL,
  id        bytea NOT NULL,
  kind      text COLLATE "C" NOT NULL,
  tag       bytea NOT NULL,
  size      integer NOT NULL,
  embedding {schema}.vector,
  PRIMARY KEY (place, n),
  FOREIGN KEY (place, n) REFERENCES shipworthy_memory.records (place, n) ON DELETE CASCADE
);
ALTER TABLE shipworthy_memory.vectors ALTER place SET STATISTICS 0, ALTER id SET STATISTICS 0,
  ALTER embedding SET STATISTICS 0;
ALTER TABLE shipworthy_memory.vectors ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY place ON shipworthy_memory.vectors
  USING (place = decode(nullif(current_setting('shipworthy.memory_place', true), ''), 'hex'));
GRANT SELECT, INSERT ON shipworthy_memory.vectors TO shipworthy_app;
-- Of vectors of length 1 the cosine. Bound here to pgvector's operator, wherever that is.
CREATE FUNCTION shipworthy_memory.nearness(one {schema}.vector, other {schema}.vector) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN -(one OPERATOR({schema}.<#>) other);
GRANT EXECUTE ON FUNCTION shipworthy_memory.nearness TO shipworthy_app;

-- statement: enter
SELECT set_config('role', 'shipworthy_app', true), set_config('search_path', 'pg_catalog, pg_temp', true),
  set_config('shipworthy.memory_place', %(said_place)b, true),
  set_config('shipworthy.memory_within', %(said_within)b, true),
  set_config('shipworthy.memory_operator', %(said_operator)b, true)

-- statement: guarded
SELECT current_user = 'shipworthy_app' AND row_security_active('shipworthy_memory.partitions')
  AND row_security_active('shipworthy_memory.records')

-- statement: mark
SELECT epoch, n, token FROM shipworthy_memory.partitions WHERE place = %(place)b

-- statement: make
INSERT INTO shipworthy_memory.partitions (place, epoch, n, token) VALUES (%(place)b, %(epoch)b, 0, 0)
ON CONFLICT (place) DO NOTHING

-- statement: claim
-- Locks the partition until the transaction is over; what follows looks for the token.
UPDATE shipworthy_memory.partitions SET token = %(token)b WHERE place = %(place)b RETURNING epoch, n

-- statement: claim_at
UPDATE shipworthy_memory.partitions SET token = %(token)b
WHERE place = %(place)b AND epoch = %(at_epoch)b AND n = %(at_n)b RETURNING epoch, n

-- statement: displace
DELETE FROM shipworthy_memory.records AS r USING shipworthy_memory.partitions AS p
WHERE p.place = %(place)b AND p.token = %(token)b AND r.place = %(place)b AND r.id = ANY (%(ids)b)

-- statement: insert
WITH written AS (
  INSERT INTO shipworthy_memory.records (place, id, n, kind, at, weight, data, terms, vector)
  SELECT p.place, u.id, p.n + row_number() OVER (ORDER BY u.nth), u.kind, u.at, u.weight, u.data, u.terms, u.vector
  FROM shipworthy_memory.partitions AS p, unnest(%(ids)b::bytea[], %(kinds)b::text[], %(ats)b::bigint[],
    %(weights)b::double precision[], %(datas)b::bytea[], %(terms)b::bytea[], %(vectors)b::bytea[])
    WITH ORDINALITY AS u (id, kind, at, weight, data, terms, vector, nth)
  WHERE p.place = %(place)b AND p.token = %(token)b
    AND u.id NOT IN (SELECT r.id FROM shipworthy_memory.records AS r WHERE r.place = %(place)b AND r.id = ANY (%(ids)b))
  RETURNING n
)
UPDATE shipworthy_memory.partitions AS p SET n = w.n FROM (SELECT max(n) AS n FROM written) AS w
WHERE p.place = %(place)b AND w.n IS NOT NULL

-- statement: get
SELECT id, kind, data, at, weight, terms, vector, n FROM shipworthy_memory.records
WHERE place = %(place)b AND id = ANY (%(ids)b)

-- statement: changes
-- A mark above the partition's is of a server that has forgotten since: everything comes again. One more than is given
-- away, by number and by size, so that whoever asks knows whether there are more.
SELECT p.epoch, p.n, r.id, r.n, r.kind, r.at, r.weight, r.terms, r.vector
FROM shipworthy_memory.partitions AS p LEFT JOIN LATERAL (
  SELECT * FROM (
    SELECT next.*, sum(octet_length(terms) + octet_length(vector)) OVER (
      ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING) AS before
    FROM (
      SELECT id, n, kind, at, weight, terms, vector FROM shipworthy_memory.records
      WHERE place = %(place)b AND n > CASE WHEN p.epoch = %(epoch)b AND p.n >= %(n)b THEN %(n)b ELSE 0 END
      ORDER BY n LIMIT %(limit)b + 1
    ) AS next
  ) AS sized WHERE before IS NULL OR before < %(bytes)b
) AS r ON true WHERE p.place = %(place)b ORDER BY r.n

-- statement: page
SELECT id, kind, data, at, weight, terms, vector, n FROM shipworthy_memory.records
WHERE place = %(place)b AND n > %(after)b ORDER BY n LIMIT %(limit)b

-- statement: page_of_kind
SELECT id, kind, data, at, weight, terms, vector, n FROM shipworthy_memory.records
WHERE place = %(place)b AND n > %(after)b AND kind = %(kind)b ORDER BY n LIMIT %(limit)b

-- statement: lock
SELECT FROM shipworthy_memory.partitions WHERE place = %(place)b FOR UPDATE

-- statement: remove
WITH gone AS (
  DELETE FROM shipworthy_memory.records WHERE place = %(place)b AND id = ANY (%(ids)b) RETURNING n
)
UPDATE shipworthy_memory.partitions SET epoch = %(epoch)b
WHERE place = %(place)b AND EXISTS (SELECT FROM gone) RETURNING (SELECT count(*) FROM gone)

-- statement: tidy
DELETE FROM shipworthy_memory.partitions WHERE place = %(place)b AND epoch = %(epoch)b
AND NOT EXISTS (SELECT FROM shipworthy_memory.records AS r WHERE r.place = %(place)b)

-- statement: within
SELECT place FROM shipworthy_memory.partitions WHERE place >= %(within)b AND place < %(beyond)b ORDER BY place

-- statement: erasable
-- The next partitions of at most so many records in all, or one. `n` is not below their number.
SELECT place FROM (
  SELECT place, sum(n) OVER (ORDER BY place) - n AS before FROM (
    SELECT place, n FROM shipworthy_memory.partitions WHERE place >= %(within)b AND place < %(beyond)b
    ORDER BY place LIMIT 1000) AS next
) AS counted WHERE before < %(many)b

-- statement: take_time
SELECT set_config('statement_timeout', %(milliseconds)b, true)

-- statement: erase_partitions
DELETE FROM shipworthy_memory.partitions
WHERE place = ANY (%(places)b) AND place >= %(within)b AND place < %(beyond)b

-- statement: erase_records
-- Not of a partition that somebody emptied and made again meanwhile: that one is among the next.
WITH gone AS (
  DELETE FROM shipworthy_memory.records AS r
  WHERE r.place = ANY (%(places)b) AND r.place >= %(within)b AND r.place < %(beyond)b
    AND NOT EXISTS (SELECT FROM shipworthy_memory.partitions AS p WHERE p.place = r.place) RETURNING r.n
) SELECT count(*) FROM gone

-- statement: everything
SELECT place FROM shipworthy_memory.partitions WHERE %(operator)b AND place > %(after)b ORDER BY place LIMIT %(limit)b

-- statement: stamp_once
INSERT INTO shipworthy_memory.stamp VALUES (true, %(data)b) ON CONFLICT (one) DO NOTHING

-- statement: stamp_anew
INSERT INTO shipworthy_memory.stamp VALUES (true, %(data)b) ON CONFLICT (one) DO UPDATE SET data = excluded.data

-- statement: stamped
SELECT data FROM shipworthy_memory.stamp

-- statement: uncopied
-- Records that `vectors` does not have yet.
SELECT n, id, kind, vector FROM shipworthy_memory.records WHERE place = %(place)b AND n > coalesce(
  (SELECT max(n) FROM shipworthy_memory.vectors WHERE place = %(place)b), 0) ORDER BY n LIMIT %(limit)b

-- statement: copy
-- The partition is locked. A record that is gone by now, or was copied by somebody else, is not copied.
INSERT INTO shipworthy_memory.vectors (place, n, id, kind, tag, size, embedding)
SELECT r.place, u.* FROM unnest(%(ns)b::bigint[], %(ids)b::bytea[], %(kinds)b::text[], %(tags)b::bytea[],
  %(sizes)b::integer[], %(embeddings)b) AS u (n, id, kind, tag, size, embedding)
JOIN shipworthy_memory.records AS r ON r.place = %(place)b AND r.n = u.n AND r.id = u.id
ON CONFLICT (place, n) DO NOTHING

-- statement: nearest
SELECT id, shipworthy_memory.nearness(embedding, (%(query)b)[1]) AS cosine FROM shipworthy_memory.vectors
WHERE place = %(place)b AND tag = %(tag)b AND size = %(dimensions)b AND kind = ANY (%(kinds)b::text[])
ORDER BY cosine DESC, n LIMIT %(limit)b
