-- Checkpoints of audit logs, format 1. Run once by whoever is to own them, who is nobody that writes a log: with
-- PostgresAnchor(dsn_of_the_owner, create=True).prepare(), or by hand. Writers are members of shipworthy_anchor.

CREATE SCHEMA shipworthy_anchor;
SET LOCAL search_path = shipworthy_anchor, pg_temp;

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shipworthy_anchor') THEN
    BEGIN CREATE ROLE shipworthy_anchor NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END;
  END IF;
END $$;

CREATE TABLE checkpoints (
  place   text COLLATE "C" NOT NULL,          -- the name, in a form that is one for each
  log     text COLLATE "C" NOT NULL CHECK (log ~ '^[0-9a-f]{32}$'),
  entries bigint NOT NULL CHECK (entries > 0),
  root    text COLLATE "C" NOT NULL CHECK (root ~ '^[0-9a-f]{64}$'),
  line    bytea NOT NULL,                     -- as it was signed
  kept_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (place, log, entries),
  CHECK (position(format('"entries":%s,"log":"%s",', entries, log) IN convert_from(line, 'UTF8')) > 0
     AND position(format('"root":"%s",', root) IN convert_from(line, 'UTF8')) > 0)
);

-- Whoever inserts, and however: what is kept again does nothing, what would go back is refused.
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql SET search_path = shipworthy_anchor, pg_temp AS $$
DECLARE kept record;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('shipworthy anchor ' || NEW.log || NEW.place, 0));
  SELECT c.root INTO kept FROM checkpoints AS c
  WHERE c.place = NEW.place AND c.log = NEW.log AND c.entries = NEW.entries;
  IF FOUND THEN
    IF kept.root = NEW.root THEN RETURN NULL; END IF;
    RAISE EXCEPTION 'another root is kept' USING ERRCODE = 'SW002';
  END IF;
  SELECT max(c.entries) AS entries INTO kept FROM checkpoints AS c WHERE c.place = NEW.place AND c.log = NEW.log;
  IF kept.entries > NEW.entries THEN
    RAISE EXCEPTION 'it would go back' USING ERRCODE = 'SW001', DETAIL = kept.entries::text;
  END IF;
  NEW.kept_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE TRIGGER keep BEFORE INSERT ON checkpoints FOR EACH ROW EXECUTE FUNCTION keep();
ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER keep;

-- Not even by mistake of the owner.
CREATE FUNCTION no_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'checkpoints are only added' USING ERRCODE = 'SW003'; END $$;
CREATE TRIGGER no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION no_change();
ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER no_change;

REVOKE ALL ON SCHEMA shipworthy_anchor FROM PUBLIC;
REVOKE ALL ON checkpoints FROM PUBLIC;
GRANT USAGE ON SCHEMA shipworthy_anchor TO shipworthy_anchor;
GRANT SELECT, INSERT ON checkpoints TO shipworthy_anchor;
