-- The ledger: counters under caps, and holds on them. Executed after schema.sql, in the same transaction. Amounts are
-- whole numbers; times are milliseconds on the server's clock. Whoever writes to counters first locks all that its
-- transaction will touch, in the order of their ids, so that nobody waits in a circle.

-- What a counter is, and its lock; never changed. A rate is a counter whose window is 'rate'. The tenant of agents,
-- models and everybody together is '': those are every tenant's.
CREATE TABLE counters (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant   text COLLATE "C" NOT NULL,
  key      text COLLATE "C" NOT NULL,
  "limit"  text COLLATE "C" NOT NULL,         -- under which its cap may be overridden
  level text NOT NULL, name text NOT NULL, unit text NOT NULL, "window" text NOT NULL,
  start    bigint NOT NULL,
  ends     bigint NOT NULL,                   -- 0: never
  UNIQUE (key, tenant)
);
CREATE INDEX counters_limit ON counters ("limit");
CREATE INDEX counters_ends  ON counters (ends) WHERE ends > 0;
-- How a counter stands. Apart from the lock, which belongs to the transaction while the savepoints of its batches
-- change what is here: a lock and a change by two of them on one row would cost a multixact each time.
CREATE TABLE balances (
  id       bigint PRIMARY KEY,
  tenant   text COLLATE "C" NOT NULL,
  spent    bigint NOT NULL DEFAULT 0,         -- of a rate: the microsecond until which what passed is paid for
  held     bigint NOT NULL DEFAULT 0,
  warned   boolean NOT NULL DEFAULT false,
  used     boolean NOT NULL DEFAULT false,    -- there was a grant, or somebody waited
  idle     bigint NOT NULL DEFAULT 0          -- of a rate: when something was last taken of it while nothing was owed
) WITH (fillfactor = 25);
CREATE TABLE holds (
  tenant   text COLLATE "C" NOT NULL CHECK (tenant <> ''),
  id       text COLLATE "C" NOT NULL,
  state    text COLLATE "C" NOT NULL,         -- held; expired: charged in full; done
  until    bigint NOT NULL,                   -- held: when it expires; otherwise when it ceased to be held
  counters bigint[] NOT NULL,                 -- of its lines, then of its rates
  amounts  bigint[] NOT NULL,                 -- what was reserved on each
  softs    bigint[] NOT NULL,                 -- of its lines
  rates    json,
  units    bigint NOT NULL,
  note     json NOT NULL,                     -- JSON in JSON on its way: so it may hold what a text may not
  granted  json NOT NULL,                     -- the answers, for who asks again
  settled  json,
  taken    bigint NOT NULL DEFAULT 0,         -- when
  forgiven bigint[] NOT NULL DEFAULT '{}',    -- counters that were reset after it expired: it is charged nothing there
  PRIMARY KEY (id, tenant)
);
CREATE INDEX holds_until ON holds (state, until);
-- Who waits for room, in the order of the first asking (`nth`), wherever that was: of those who wait one is behind
-- nobody, so that they cannot stand in each other's way for ever. `hold` is a digest: what a tenant may see of others
-- is that somebody waits for what is everybody's.
CREATE TABLE places (
  hold bytea PRIMARY KEY, counter bigint NOT NULL, tenant text COLLATE "C" NOT NULL,
  nth bigint GENERATED ALWAYS AS IDENTITY, until bigint NOT NULL
);
CREATE INDEX places_order ON places (counter, nth);
CREATE TABLE caps (
  tenant text COLLATE "C", "limit" text COLLATE "C", cap bigint NOT NULL, PRIMARY KEY ("limit", tenant)
);
CREATE TABLE changes (
  nth bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at bigint NOT NULL, action text NOT NULL,
  tenant text COLLATE "C" NOT NULL, level text NOT NULL, name text NOT NULL, unit text NOT NULL, "window" text NOT NULL,
  amount bigint, who text NOT NULL, why text NOT NULL
);
-- What came here from the ledger of another store, by counter: so much is not carried again.
CREATE TABLE carried (
  origin text COLLATE "C", tenant text COLLATE "C", key text COLLATE "C", amount bigint NOT NULL,
  PRIMARY KEY (key, origin, tenant)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON counters, balances, holds, places, caps, changes, carried TO shipworthy_app;
ALTER TABLE holds ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON holds USING (tenant = current_setting('shipworthy.tenant', true)
  OR current_setting('shipworthy.operator', true) = 'on');
DO $$ DECLARE t text; BEGIN
  FOREACH t IN ARRAY ARRAY['counters', 'balances', 'places', 'caps', 'changes', 'carried'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I USING (current_setting(''shipworthy.tenant'', true) <> ''''
      AND tenant IN ('''', current_setting(''shipworthy.tenant'', true))
      OR current_setting(''shipworthy.operator'', true) = ''on'')', t);
  END LOOP;
END $$;

-- An operation on the ledger, as it is sent: a hold, a settlement, a release, a renewal or a forgetting. `lines` and
-- the line of a rate: places among the counters that its group has locked, from 1.
CREATE TYPE operation AS (kind text, tenant text, id text, lines integer[], caps bigint[], softs bigint[],
  base bigint[], each bigint[], rates json, least bigint, most bigint, ttl bigint, final boolean, place bigint,
  note text, amounts bigint[], used bigint[], ids text[], keys text[]);

-- Every counter that a group will touch is made, where it is missing, and locked: those of its holds by their keys,
-- those of its settlements by their holds. The missing are made before anything is locked, in one order as well. What
-- was locked is read only then: whoever had it before us has changed it.
CREATE FUNCTION lock_counters(wanted json) RETURNS locked LANGUAGE plpgsql AS $$
DECLARE l locked; ours bigint[]; fresh bigint[]; missing bigint; tries integer := 0;
BEGIN
  PERFORM set_config('shipworthy.operator', 'on', true);
  SELECT array_agg(DISTINCT c) INTO ours FROM json_to_recordset(wanted->'holds') AS u (tenant text, id text),
    unnest((SELECT h.counters FROM holds AS h WHERE h.id = u.id AND h.tenant = u.tenant)) AS c;
  LOOP
    SELECT array_agg(id ORDER BY n), count(*) FILTER (WHERE id IS NULL) INTO l.ids, missing FROM (
      SELECT (SELECT c.id FROM counters AS c WHERE c.key = u.key AND c.tenant = u.tenant) AS id, n
      FROM ROWS FROM (json_to_recordset(wanted->'counters') AS (tenant text, key text))
        WITH ORDINALITY AS u (tenant, key, n)) AS found;
    IF missing > 0 THEN
      WITH absent AS MATERIALIZED (
        SELECT u.* FROM json_to_recordset(wanted->'counters') AS u (tenant text, key text, "limit" text, level text,
          name text, unit text, "window" text, start bigint, ends bigint)
        WHERE (SELECT c.id FROM counters AS c WHERE c.key = u.key AND c.tenant = u.tenant) IS NULL
        ORDER BY u.tenant COLLATE "C", u.key COLLATE "C"
      ), added AS (
        INSERT INTO counters (tenant, key, "limit", level, name, unit, "window", start, ends)
        SELECT * FROM absent ON CONFLICT (key, tenant) DO NOTHING RETURNING id, tenant
      ), balanced AS (INSERT INTO balances (id, tenant) SELECT id, tenant FROM added RETURNING id)
      SELECT array_agg(id) INTO fresh FROM balanced;
      l.made := l.made || fresh;
    ELSE
      PERFORM FROM counters WHERE id = ANY (l.ids || ours) ORDER BY id FOR UPDATE;
      SELECT array_agg(coalesce((SELECT k.cap FROM caps AS k WHERE k."limit" = c."limit" AND k.tenant = c.tenant), -1)
        ORDER BY n), count(*) FILTER (WHERE c.id IS NULL) INTO l.overrides, missing
      FROM unnest(l.ids) WITH ORDINALITY AS u (id, n) LEFT JOIN counters AS c ON c.id = u.id;
      EXIT WHEN missing = 0; -- none was dropped while we waited for it
    END IF;
    tries := tries + 1;
    IF tries > 9 THEN RAISE EXCEPTION 'counters come and go' USING ERRCODE = 'SW002'; END IF;
  END LOOP;
  PERFORM set_config('shipworthy.operator', '', true);
  RETURN l;
END $$;

CREATE FUNCTION ticket(tenant text, id text) RETURNS bytea LANGUAGE sql STABLE AS
$$ SELECT sha256(convert_to(json_build_array(tenant, id)::text, 'UTF8')) $$;

-- Microseconds that an amount takes at a rate, rounded up.
CREATE FUNCTION pace(amount bigint, "limit" bigint, period bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT div(amount::numeric * period * 1000 + "limit" - 1, "limit")::bigint $$;

-- The savepoint is undone, and what the message says is the answer.
CREATE FUNCTION refuse(o operation, counter bigint, cause text, nth bigint, cap bigint, spent bigint, held bigint,
  needed bigint, wait bigint, fits boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'SW001', MESSAGE = json_build_object('hold', ticket(o.tenant, o.id)::text,
    'counter', counter, 'fits', fits, 'place', CASE cause WHEN 'held' THEN o.place ELSE 0 END,
    'refused', json_build_array(cause, nth - 1, cap, spent, held, needed, wait))::text;
END $$;

-- Adds to what is spent, to each counter once.
CREATE FUNCTION charge(ids bigint[], freed bigint[], charged bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE balances AS b SET held = b.held - u.f, spent = greatest(b.spent + u.c, 0), used = true
  FROM (SELECT i, sum(f)::bigint AS f, sum(c)::bigint AS c
    FROM unnest(ids, freed, charged) AS u (i, f, c) GROUP BY i) AS u
  WHERE b.id = u.i;
END $$;

-- The lines that what is spent has just brought to their warning, from 0.
CREATE FUNCTION warn(ids bigint[], softs bigint[]) RETURNS json LANGUAGE plpgsql AS $$
DECLARE found json;
BEGIN
  IF softs <> array_fill(0::bigint, ARRAY[cardinality(softs)]) THEN
    WITH crossed AS (
      UPDATE balances AS b SET warned = true FROM unnest(ids, softs) WITH ORDINALITY AS u (id, soft, n)
      WHERE b.id = u.id AND u.soft > 0 AND b.spent >= u.soft AND NOT b.warned RETURNING u.n - 1 AS n)
    SELECT json_agg(n ORDER BY n) INTO found FROM crossed;
  END IF;
  RETURN coalesce(found, '[]');
END $$;

-- Whether a hold may be taken (as rules/ledger.py says), and taking it.
CREATE FUNCTION take(o operation, l locked) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  at bigint := now_ms(); mine bytea := ticket(o.tenant, o.id); place places%ROWTYPE; answer json; r record; n integer;
  ids bigint[]; caps bigint[]; spent bigint[]; held bigint[]; queued boolean[]; warned boolean[];
  units bigint := o.most; room bigint; amounts bigint[] := '{}'; none bigint[]; early numeric; near boolean := false;
BEGIN
  SELECT h.granted INTO answer FROM holds AS h WHERE h.id = o.id AND h.tenant = o.tenant;
  IF FOUND THEN RETURN answer; END IF;
  SELECT array_agg(b.id ORDER BY u.n),
    array_agg(CASE l.overrides[u.line] WHEN -1 THEN u.cap ELSE l.overrides[u.line] END ORDER BY u.n),
    array_agg(b.spent ORDER BY u.n), array_agg(b.held ORDER BY u.n), array_agg(b.warned ORDER BY u.n),
    count(*) - count(b.id) INTO ids, caps, spent, held, warned, n
  FROM unnest(o.lines, o.caps) WITH ORDINALITY AS u (line, cap, n) LEFT JOIN balances AS b ON b.id = l.ids[u.line];
  IF n > 0 THEN RAISE EXCEPTION 'a counter went away' USING ERRCODE = 'SW002'; END IF;
  IF EXISTS (SELECT FROM places AS p WHERE p.counter = ANY (ids) AND p.until >= at) THEN
    SELECT * INTO place FROM places AS p WHERE p.hold = mine AND p.until >= at;
    SELECT array_agg(EXISTS (SELECT FROM places AS p WHERE p.counter = c AND p.until >= at AND p.hold <> mine
      AND (place.nth IS NULL OR p.nth < place.nth)) ORDER BY u.n)
    INTO queued FROM unnest(ids) WITH ORDINALITY AS u (c, n);
  END IF;
  FOR i IN 1 .. cardinality(o.lines) LOOP
    room := caps[i] - spent[i] - o.base[i];
    IF room < 0 THEN units := -1; ELSIF o.each[i] > 0 THEN units := least(units, room / o.each[i]); END IF;
    IF units < o.least THEN
      PERFORM refuse(o, ids[i], 'spent', i, caps[i], spent[i], held[i], o.base[i] + o.each[i] * o.least, 0);
    END IF;
  END LOOP;
  FOR i IN 1 .. cardinality(o.lines) LOOP
    amounts[i] := o.base[i] + o.each[i] * units;
    IF queued[i] OR amounts[i] > caps[i] - spent[i] - held[i] THEN
      PERFORM refuse(o, ids[i], 'held', i, caps[i], spent[i], held[i], amounts[i], 0,
        amounts[i] <= caps[i] - spent[i] - held[i]);
    END IF;
    near := near OR o.softs[i] > 0 AND NOT warned[i] AND spent[i] + held[i] + amounts[i] >= o.softs[i];
  END LOOP;
  none := array_fill(0::bigint, ARRAY[cardinality(amounts)]);
  answer := '[]';
  IF o.final THEN
    PERFORM charge(ids, none, amounts);
    answer := warn(ids, o.softs);
  ELSE
    PERFORM charge(ids, ARRAY(SELECT -a FROM unnest(amounts) WITH ORDINALITY AS u (a, n) ORDER BY u.n), none);
  END IF;
  IF o.rates IS NOT NULL THEN
    FOR r IN SELECT u.*, b.id, b.spent AS owed
      FROM ROWS FROM (json_to_recordset(o.rates) AS (line integer, "limit" bigint, period bigint, burst bigint,
        base bigint, each bigint)) WITH ORDINALITY AS u (line, "limit", period, burst, base,
      each, n) LEFT JOIN balances AS b ON b.id = l.ids[u.line] ORDER BY u.n
    LOOP
      room := pace(r.base + r.each * units, r."limit", r.period);
      early := greatest(r.owed, at * 1000) + room - at * 1000 - greatest(pace(r.burst, r."limit", r.period), room);
      IF early > 0 THEN
        PERFORM refuse(o, r.id, 'rate', r.n, 0, 0, 0, r.base + r.each * units, ceil(early / 1000)::bigint);
      END IF;
      UPDATE balances AS b SET spent = greatest(b.spent, at * 1000) + room, used = true,
        idle = CASE WHEN b.spent <= at * 1000 THEN at ELSE b.idle END WHERE b.id = r.id;
      IF NOT FOUND THEN RAISE EXCEPTION 'a rate went away' USING ERRCODE = 'SW002'; END IF;
      ids := ids || r.id; amounts := amounts || (r.base + r.each * units);
    END LOOP;
  END IF;
  answer := json_build_array('granted', units, answer, near AND NOT o.final);
  INSERT INTO holds VALUES (o.tenant, o.id, CASE WHEN o.final THEN 'done' ELSE 'held' END,
    CASE WHEN o.final THEN at ELSE at + o.ttl END, coalesce(ids, '{}'), amounts, o.softs, o.rates, units,
    o.note::json, answer,
    CASE WHEN o.final THEN json_build_array('settled', o.note::json, '[]'::json, true, units) END, at);
  DELETE FROM places AS p WHERE p.hold = mine;
  RETURN answer;
END $$;

-- What was spent in the place of what was held, once. No amounts: all that was reserved. A rate is given back only
-- what may still be owed: what was taken before nothing was owed, time has paid.
CREATE FUNCTION settle(o operation) RETURNS json LANGUAGE plpgsql AS $$
DECLARE h holds%ROWTYPE; lines integer; charged bigint[]; rate json; answer json; counter bigint; more bigint;
BEGIN
  SELECT * INTO h FROM holds WHERE tenant = o.tenant AND id = o.id FOR UPDATE;
  IF NOT FOUND THEN RETURN json_build_array('settled', '', '[]'::json, false, 0); END IF;
  IF h.state = 'done' THEN RETURN h.settled; END IF;
  lines := cardinality(h.softs);
  IF o.kind = 'release' THEN
    o.amounts := array_fill(0::bigint, ARRAY[lines]);
    o.used := array_fill(0::bigint, ARRAY[cardinality(h.amounts) - lines]);
  END IF;
  charged := coalesce(o.amounts, h.amounts[:lines]);
  IF h.state = 'held' THEN PERFORM charge(h.counters[:lines], h.amounts[:lines], charged);
  ELSE
    PERFORM charge(h.counters[:lines], array_fill(0::bigint, ARRAY[lines]),
      ARRAY(SELECT CASE WHEN u.id = ANY (h.forgiven) THEN c ELSE c - a END
        FROM unnest(h.counters[:lines], charged, h.amounts[:lines]) WITH ORDINALITY AS u (id, c, a, n) ORDER BY n));
  END IF;
  IF o.used IS NOT NULL AND h.rates IS NOT NULL THEN
    FOR i IN 1 .. cardinality(h.amounts) - lines LOOP
      rate := h.rates->(i - 1); counter := h.counters[lines + i];
      more := pace(o.used[i], (rate->>'limit')::bigint, (rate->>'period')::bigint)
        - pace(h.amounts[lines + i], (rate->>'limit')::bigint, (rate->>'period')::bigint);
      UPDATE balances AS b SET spent = b.spent + more WHERE b.id = counter AND (more > 0 OR h.taken >= b.idle);
    END LOOP;
  END IF;
  answer := json_build_array('settled', CASE WHEN o.amounts IS NULL THEN h.note ELSE o.note::json END,
    warn(h.counters[:lines], h.softs), true, h.units);
  UPDATE holds AS x SET state = 'done', until = now_ms(), settled = answer WHERE x.tenant = o.tenant AND x.id = o.id;
  RETURN answer;
END $$;

-- What became of some operations, in their order. Raises SW001 for a hold that is refused.
CREATE FUNCTION budget(operations json, l locked) RETURNS json LANGUAGE plpgsql AS $$
DECLARE o operation; answers json[] := '{}';
BEGIN
  FOR o IN SELECT * FROM json_populate_recordset(NULL::operation, operations) LOOP
    IF o.kind = 'hold' THEN answers := answers || take(o, l);
    ELSIF o.kind = 'settlement' THEN answers := answers || settle(o);
    ELSIF o.kind = 'release' THEN
      DELETE FROM places AS p WHERE p.hold = ticket(o.tenant, o.id);
      PERFORM settle(o); answers := answers || 'null'::json;
    ELSIF o.kind = 'renewal' THEN
      UPDATE holds AS h SET until = now_ms() + o.ttl
      WHERE h.id = ANY (o.ids) AND h.tenant = o.tenant AND h.state = 'held';
      answers := answers || 'null'::json;
    ELSE
      PERFORM drop_counters(ARRAY(SELECT id FROM counters AS c WHERE c.tenant = o.tenant AND c.key = ANY (o.keys)));
      answers := answers || 'null'::json;
    END IF;
  END LOOP;
  RETURN array_to_json(answers);
END $$;

CREATE FUNCTION drop_counters(gone bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM counters WHERE id = ANY (gone);
  DELETE FROM balances WHERE id = ANY (gone);
  DELETE FROM places WHERE counter = ANY (gone);
END $$;

-- After the savepoint of a batch whose hold was refused: who is patient keeps a place before what was full, and nobody
-- else does. `fits`: only others who came before are in the way there, for which no place is left. `due`: some hold has
-- expired and is not charged, so that it may be another answer once that is done.
CREATE FUNCTION refused(whose text, said json) RETURNS json LANGUAGE plpgsql AS $$
DECLARE mine bytea := said->>'hold'; full_one bigint := said->>'counter'; at bigint := now_ms(); due boolean := false;
BEGIN
  PERFORM set_config('shipworthy.tenant', whose, true);
  IF (said->>'place')::bigint > 0 THEN
    UPDATE places AS p SET until = at + (said->>'place')::bigint
    WHERE p.hold = mine AND p.until >= at AND (p.counter = full_one OR (said->>'fits')::boolean);
    IF NOT FOUND THEN
      UPDATE places AS p SET until = at + (said->>'place')::bigint, counter = c.id, tenant = c.tenant
      FROM counters AS c WHERE c.id = full_one AND p.hold = mine AND p.until >= at;
      IF NOT FOUND THEN
        DELETE FROM places AS p WHERE p.hold = mine;
        INSERT INTO places (hold, counter, tenant, until)
        SELECT mine, c.id, c.tenant, at + (said->>'place')::bigint FROM counters AS c WHERE c.id = full_one;
      END IF;
      UPDATE balances AS b SET used = true WHERE b.id = full_one AND NOT b.used;
    END IF;
  ELSE DELETE FROM places AS p WHERE p.hold = mine; END IF;
  IF said->'refused'->>0 = 'held' THEN
    PERFORM set_config('shipworthy.operator', 'on', true);
    due := EXISTS (SELECT FROM holds WHERE state = 'held' AND until <= at);
    PERFORM set_config('shipworthy.operator', '', true);
  END IF;
  RETURN json_build_array(said->'refused', due);
END $$;

-- After a group of which something was not done: what nobody has drawn on is not left behind.
CREATE FUNCTION tidy(made bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('shipworthy.operator', 'on', true);
  PERFORM drop_counters(ARRAY(SELECT id FROM balances WHERE id = ANY (made) AND NOT used));
  PERFORM set_config('shipworthy.operator', '', true);
END $$;

-- Charges expired holds in full, in the counters where they were reserved; at most so many, the oldest first. Gives
-- how many. For an operator, like what follows.
CREATE FUNCTION expire(most integer) RETURNS integer LANGUAGE plpgsql SET search_path = shipworthy AS $$
DECLARE at bigint := now_ms(); tenants text[]; ids text[]; n integer;
BEGIN
  SELECT array_agg(tenant), array_agg(id) INTO tenants, ids FROM (
    SELECT tenant, id FROM holds WHERE state = 'held' AND until <= at ORDER BY until LIMIT most) AS due;
  IF ids IS NULL THEN RETURN 0; END IF;
  PERFORM FROM counters WHERE id IN (SELECT unnest(h.counters) FROM unnest(tenants, ids) AS u (tenant, id)
    JOIN holds AS h ON h.tenant = u.tenant AND h.id = u.id) ORDER BY id FOR UPDATE;
  WITH over AS (
    UPDATE holds AS h SET state = 'expired' FROM unnest(tenants, ids) AS u (tenant, id)
    WHERE h.tenant = u.tenant AND h.id = u.id AND h.state = 'held' AND h.until <= at
    RETURNING h.counters[:cardinality(h.softs)] AS counters, h.amounts[:cardinality(h.softs)] AS amounts
  ), sums AS (
    SELECT c, sum(a)::bigint AS amount FROM over, unnest(over.counters, over.amounts) AS u (c, a) GROUP BY c
  ), charged AS (
    UPDATE balances AS b SET held = b.held - s.amount, spent = b.spent + s.amount FROM sums AS s WHERE b.id = s.c
  )
  SELECT count(*) INTO n FROM over;
  RETURN n;
END $$;

-- Drops what is old: holds that have been over for a day, counters of windows that ended before a time, rates on which
-- nothing is owed any more, and places that were not kept.
CREATE FUNCTION drop_old(kept bigint, windows bigint) RETURNS void LANGUAGE plpgsql SET search_path = shipworthy AS $$
DECLARE at bigint := now_ms(); old bigint[];
BEGIN
  DELETE FROM places WHERE until < at - 60000;
  DELETE FROM holds WHERE state IN ('expired', 'done') AND until < at - kept;
  SELECT array_agg(id) INTO old FROM (
    SELECT c.id FROM counters AS c JOIN balances AS b ON b.id = c.id
    WHERE c.ends > 0 AND c.ends < at - windows AND b.held = 0
    UNION ALL SELECT c.id FROM counters AS c JOIN balances AS b ON b.id = c.id
    WHERE c."window" = 'rate' AND b.spent < (at - kept) * 1000) AS o;
  PERFORM FROM counters WHERE id = ANY (old) ORDER BY id FOR UPDATE;
  PERFORM drop_counters(ARRAY(SELECT b.id FROM balances AS b JOIN counters AS c ON c.id = b.id WHERE b.id = ANY (old)
    AND b.held = 0 AND (c."window" <> 'rate' OR b.spent < (at - kept) * 1000)));
END $$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shipworthy TO shipworthy_app;
