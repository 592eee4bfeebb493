-- Audit logs: docs/reference/audit-format.md. Executed after ledger.sql, in the same transaction.

-- They are no tenant's: a transaction sees them that says that it is for them. The role may add to a log, and forget
-- what bodies said; it may neither change nor drop an entry or a checkpoint.
CREATE TABLE audit_logs (
  key      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name     text COLLATE "C" NOT NULL UNIQUE,
  standing bytea NOT NULL,                    -- JSON, UTF-8: where the log stands
  seal     bytea NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE audit_entries (
  log   bigint, seq bigint,
  line  bytea NOT NULL,                       -- without a newline
  salt  bytea,                                -- NULL: there is no body, or it was erased
  body  bytea,                                -- NULL: it is an event of the journal, if there is one
  run   bigint, first integer,                -- then: of this batch
  PRIMARY KEY (log, seq)
);
CREATE TABLE audit_checkpoints (log bigint, entries bigint, line bytea NOT NULL, PRIMARY KEY (log, entries));

GRANT SELECT, INSERT, UPDATE ON audit_logs TO shipworthy_app;
GRANT SELECT, INSERT, UPDATE (salt, body) ON audit_entries TO shipworthy_app;
GRANT SELECT, INSERT ON audit_checkpoints TO shipworthy_app;
DO $$ DECLARE t text; BEGIN
  FOREACH t IN ARRAY ARRAY['audit_logs', 'audit_entries', 'audit_checkpoints'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY audit ON %I USING (current_setting(''shipworthy.audit'', true) = ''on'')', t);
  END LOOP;
END $$;

-- The logs of these names that there are, and their last entries; nobody else writes them before the transaction ends.
-- It says that it is for them. Each statement sees what was committed while it waited.
CREATE FUNCTION audit_lock(wanted text[]) RETURNS TABLE (called text, at bigint, its_key bigint, its_standing bytea,
  its_seal bytea, last bigint, its_line bytea) LANGUAGE plpgsql SET search_path = shipworthy AS $$
BEGIN
  PERFORM set_config('shipworthy.audit', 'on', true);
  FOREACH called IN ARRAY wanted LOOP
    SELECT key, standing, seal INTO its_key, its_standing, its_seal FROM audit_logs WHERE name = called FOR UPDATE;
    CONTINUE WHEN its_key IS NULL;
    SELECT seq, line INTO last, its_line FROM audit_entries WHERE log = its_key ORDER BY seq DESC LIMIT 1;
    at := now_ms();
    RETURN NEXT;
  END LOOP;
END $$;

-- What a log grows by, and where it stands then.
CREATE FUNCTION audit_grow(which bigint, stands bytea, sealed bytea, seqs bigint[], lines bytea[], salts bytea[],
  bodies bytea[], runs bigint[], firsts integer[]) RETURNS void LANGUAGE sql SET search_path = shipworthy AS $$
  UPDATE audit_logs SET standing = stands, seal = sealed WHERE key = which;
  INSERT INTO audit_entries SELECT which, * FROM unnest(seqs, lines, salts, bodies, runs, firsts);
$$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shipworthy TO shipworthy_app; -- where PUBLIC may not
