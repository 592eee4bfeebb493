-- Format 1. Times are milliseconds since the Unix epoch on the server's clock, as far as leases go.
-- Run by whoever may create schemas, in one transaction under an advisory lock. The store works as the role
-- shipworthy_app, which owns nothing and sees the rows of one tenant: the one that its transaction names.

CREATE SCHEMA shipworthy;
SET LOCAL search_path = shipworthy;

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shipworthy_app') THEN
    BEGIN CREATE ROLE shipworthy_app NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END;
  END IF;
  BEGIN GRANT shipworthy_app TO CURRENT_USER; EXCEPTION WHEN OTHERS THEN NULL; END; -- a member, or told so later
END $$;

-- `oldest`: the oldest release's format that can still work with this schema.
CREATE TABLE meta (version integer NOT NULL, oldest integer NOT NULL);

CREATE TABLE runs (
  key          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant       text NOT NULL CHECK (tenant <> ''),
  "user"       text,
  session      text,
  run_id       text NOT NULL,
  status       text NOT NULL,
  fence        bigint NOT NULL,               -- grows with every change of owner
  worker       text,                          -- NULL: released
  head         integer NOT NULL,              -- the last event's sequence number
  started_at   bigint NOT NULL,
  updated_at   bigint NOT NULL,
  position     integer,                       -- among the ended runs of its session, from 1
  expired      boolean NOT NULL DEFAULT false, -- claimed from a worker that may live, and nothing was committed since
  watched      bigint NOT NULL DEFAULT 0,     -- until then, somebody elsewhere reads along
  wake_at      bigint,                        -- paused: when somebody is to look again; of the last batch
  root         text,                          -- of a nested run: the outermost run's run_id
  UNIQUE (tenant, run_id)
) WITH (fillfactor = 70);
CREATE INDEX runs_newest  ON runs (tenant, started_at, key);
CREATE INDEX runs_session ON runs (tenant, session, "user", position) WHERE session IS NOT NULL;
CREATE INDEX runs_running ON runs (worker) WHERE status = 'running';
CREATE INDEX runs_due     ON runs (wake_at, key) WHERE status = 'paused' AND wake_at IS NOT NULL;

CREATE TABLE journal (
  run bigint, tenant text NOT NULL, first integer, last integer NOT NULL,
  events bytea NOT NULL,                      -- JSON, UTF-8
  PRIMARY KEY (run, first)
);
CREATE TABLE bodies (
  run bigint, tenant text NOT NULL, digest text, data bytea NOT NULL, PRIMARY KEY (run, digest)
);
CREATE TABLE workers (
  id text PRIMARY KEY, lock bigint NOT NULL, lease_until bigint NOT NULL,
  locked_at timestamptz                       -- when its session took the advisory lock `lock`
);

GRANT USAGE ON SCHEMA shipworthy TO shipworthy_app;
GRANT SELECT ON meta TO shipworthy_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON runs, journal, bodies, workers TO shipworthy_app;
DO $$ DECLARE t text; BEGIN
  FOREACH t IN ARRAY ARRAY['runs', 'journal', 'bodies'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I USING (tenant = current_setting(''shipworthy.tenant'', true)
      OR current_setting(''shipworthy.operator'', true) = ''on'')', t);
  END LOOP;
END $$;

CREATE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- What of the ledger (ledger.sql) a group has locked: each counter, the override of its cap (-1: none),
-- and those that were made for it.
CREATE TYPE locked AS (ids bigint[], overrides bigint[], made bigint[]);

-- A group of batches in one transaction, a savepoint each: one that fails or is refused aborts no other. No key: a
-- new run, which begins with its token. `again`: the group was sent before and its fate is not known, so what is there
-- already has landed (its fate is `again`). The events come in base64, since JSON text may hold what a text of PostgreSQL may not. `wanted`:
-- what the group's operations on the ledger will touch (ledger.sql); done again, they have the same answers. A batch may
-- be of such operations alone. Gives what became of each batch, but for those of runs that are there and that landed
-- without an operation. Every row is found by its key, whatever
-- the planner makes of tables that were small, and no statement is planned twice.
CREATE FUNCTION append(me text, again boolean, batches json, owners integer[], digests text[], datas bytea[],
  wanted json) RETURNS TABLE (nth bigint, fate text, handle bigint, why text) LANGUAGE plpgsql SET search_path = shipworthy
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off AS $$
DECLARE b record; watched_until bigint; batch bytea; named text; l locked; failed boolean := false;
BEGIN
  IF wanted IS NOT NULL THEN l := lock_counters(wanted); END IF;
  FOR b IN SELECT row_number() OVER () AS n, * FROM json_to_recordset(batches) AS u (tenant text, user_id text,
    session_id text, run_id text, key bigint, token bigint, first integer, last integer, started bigint, at bigint,
    status text, joins boolean, events text, budget json, grants json, wake_at bigint, root text)
  LOOP
    fate := 'landed'; handle := NULL; why := NULL; watched_until := 0;
    BEGIN
      IF b.tenant IS DISTINCT FROM named THEN
        PERFORM set_config('shipworthy.tenant', b.tenant, true); named := b.tenant;
      END IF;
      batch := decode(b.events, 'base64');
      IF b.run_id IS NULL THEN NULL; -- nothing is appended
      ELSIF b.key IS NULL THEN
        INSERT INTO runs (tenant, "user", session, run_id, status, fence, worker, head, started_at, updated_at,
          wake_at, root)
        VALUES (b.tenant, b.user_id, b.session_id, b.run_id, b.status, coalesce(b.token, 1),
          CASE b.status WHEN 'running' THEN me END, b.last, b.started, b.at, b.wake_at, b.root)
        ON CONFLICT (tenant, run_id) DO NOTHING RETURNING key INTO handle;
      ELSE
        UPDATE runs AS r SET head = b.last, updated_at = b.at, status = b.status, expired = false,
          wake_at = b.wake_at, worker = CASE b.status WHEN 'running' THEN me END
        WHERE r.key = b.key AND r.tenant = b.tenant AND r.fence = b.token AND r.head = b.first - 1 AND r.worker = me
        RETURNING r.key, r.watched INTO handle, watched_until;
      END IF;
      IF handle IS NOT NULL THEN
        INSERT INTO journal VALUES (handle, b.tenant, b.first, b.last, batch);
        IF owners <> '{}' THEN
          INSERT INTO bodies SELECT handle, b.tenant, digest, data
          FROM unnest(owners, digests, datas) AS u (owner, digest, data) WHERE owner = b.n ON CONFLICT DO NOTHING;
        END IF;
        IF b.joins AND b.session_id IS NOT NULL THEN
          PERFORM pg_advisory_xact_lock(hashtextextended(jsonb_build_array(b.tenant, b.user_id, b.session_id)::text, 0));
          UPDATE runs AS r SET position = (SELECT coalesce(max(s.position), 0) + 1 FROM runs AS s WHERE
            s.tenant = b.tenant AND s.session = b.session_id AND s."user" IS NOT DISTINCT FROM b.user_id)
          WHERE r.key = handle AND r.position IS NULL;
        END IF;
        IF b.grants IS NOT NULL THEN PERFORM remember(b.grants); END IF;
        IF watched_until > 0 AND watched_until > now_ms() THEN PERFORM pg_notify('shipworthy', handle::text); END IF;
      ELSIF again THEN
        SELECT r.key INTO handle FROM runs AS r JOIN journal AS j ON j.run = r.key AND j.first = b.first
        WHERE r.tenant = b.tenant AND r.run_id = b.run_id AND r.fence = coalesce(b.token, 1)
          AND (r.key = b.key OR b.key IS NULL AND coalesce(r.worker, me) = me) AND j.events = batch;
        IF handle IS NOT NULL THEN fate := 'again'; END IF;
      END IF;
      IF handle IS NULL AND b.run_id IS NOT NULL THEN fate := 'refused';
      ELSIF b.budget IS NOT NULL THEN why := budget(b.budget, l); END IF;
    EXCEPTION
      WHEN read_only_sql_transaction THEN RAISE;
      WHEN OTHERS THEN fate := SQLSTATE; why := SQLERRM; named := NULL; -- a savepoint takes the setting back
    END;
    IF fate = 'SW001' THEN why := refused(b.tenant, why::json); named := b.tenant; END IF;
    failed := failed OR fate NOT IN ('landed', 'again'); nth := b.n;
    IF b.key IS NULL OR fate <> 'landed' OR b.budget IS NOT NULL THEN RETURN NEXT; END IF;
  END LOOP;
  IF failed AND l.made IS NOT NULL THEN PERFORM tidy(l.made); END IF;
END $$;

-- The lease of a worker, written anew; with `fresh`, its session's lock is taken as well, if no older session has it.
CREATE FUNCTION beat(me text, its_lock bigint, ttl bigint, fresh boolean, OUT at bigint, OUT until bigint, OUT locked boolean)
LANGUAGE plpgsql SET search_path = shipworthy AS $$
BEGIN
  at := now_ms(); until := at + ttl; locked := fresh AND pg_try_advisory_lock(its_lock);
  INSERT INTO workers AS w VALUES (me, its_lock, until, CASE WHEN locked THEN clock_timestamp() END)
  ON CONFLICT (id) DO UPDATE SET lease_until = until, locked_at = coalesce(excluded.locked_at, w.locked_at);
END $$;

-- Whether a worker's runs may be taken over: its lease is over, or its session. A server that was started anew ended
-- every session, so that there only the lease counts until the worker is back.
CREATE FUNCTION gone(who text, skew bigint) RETURNS boolean LANGUAGE sql VOLATILE SET search_path = shipworthy AS $$
  SELECT NOT EXISTS (SELECT FROM workers AS w WHERE w.id = who AND w.lease_until + skew >= now_ms()
    AND (w.locked_at < pg_postmaster_start_time() OR NOT pg_try_advisory_xact_lock_shared(w.lock)))
$$;

-- No handle: there is no such run. No token: `owner` drives it.
CREATE FUNCTION claim(me text, skew bigint, whose text, which text, OUT handle bigint, OUT token bigint,
  OUT user_name text, OUT session_name text, OUT previous text, OUT owner text)
LANGUAGE plpgsql SET search_path = shipworthy AS $$
DECLARE r runs%ROWTYPE;
BEGIN
  SELECT * INTO r FROM runs WHERE tenant = whose AND run_id = which FOR UPDATE;
  handle := r.key; user_name := r."user"; session_name := r.session; previous := 'released';
  IF handle IS NULL THEN RETURN; END IF;
  IF r.status = 'running' AND r.worker IS DISTINCT FROM me THEN
    IF r.worker IS NOT NULL AND NOT gone(r.worker, skew) THEN owner := r.worker; RETURN; END IF;
    previous := 'expired';
  END IF;
  IF r.expired THEN previous := 'expired'; END IF;
  UPDATE runs SET fence = fence + 1, worker = me, expired = (previous = 'expired') WHERE key = handle
  RETURNING fence INTO token;
END $$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shipworthy TO shipworthy_app; -- where PUBLIC may not
INSERT INTO meta VALUES (1, 1);
