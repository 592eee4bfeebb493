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
