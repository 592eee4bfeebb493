-- The store's own keys, and what was said yes to beyond one run. Executed after schema.sql, in the same transaction.

-- By `nth`, the highest for signing. They are no tenant's: a transaction sees them that says that it is for signing, and
-- no other one, be it a tenant's or an operator's. Of one that was dropped the name is kept, so that it does not come
-- back with what another store had.
CREATE TABLE signing_keys (
  nth     bigint PRIMARY KEY,
  id      text COLLATE "C" NOT NULL UNIQUE,
  secret  bytea,                              -- NULL: dropped
  made_at bigint NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON signing_keys TO shipworthy_app;
ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY signing ON signing_keys USING (current_setting('shipworthy.signing', true) = 'on');

-- A yes to calls of a user's runs. One that was revoked stays until it would have expired, as above.
CREATE TABLE grants (
  nth        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant     text COLLATE "C" NOT NULL CHECK (tenant <> ''),
  id         text COLLATE "C" NOT NULL,
  "user"     text COLLATE "C" NOT NULL,
  expires_at bigint NOT NULL,
  revoked    boolean NOT NULL DEFAULT false,
  data       bytea NOT NULL,                  -- JSON, UTF-8; empty: revoked
  UNIQUE (tenant, id)
);
CREATE INDEX grants_user ON grants (tenant, "user");
GRANT SELECT, INSERT, UPDATE, DELETE ON grants TO shipworthy_app;
ALTER TABLE grants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON grants USING (tenant = current_setting('shipworthy.tenant', true)
  OR current_setting('shipworthy.operator', true) = 'on');

-- Keeps grants; what of the same users has expired goes, unless somebody else is at it.
CREATE FUNCTION remember(given json) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM grants WHERE nth IN (
    SELECT g.nth FROM json_to_recordset(given) AS u (tenant text, user_id text)
    JOIN grants AS g ON g.tenant = u.tenant AND g."user" = u.user_id
    WHERE g.expires_at <= now_ms() FOR UPDATE OF g SKIP LOCKED);
  INSERT INTO grants (tenant, id, "user", expires_at, data)
  SELECT u.tenant, u.id, u.user_id, u.expires_at, decode(u.data, 'base64')
  FROM json_to_recordset(given) AS u (tenant text, id text, user_id text, expires_at bigint, data text)
  ORDER BY u.tenant COLLATE "C", u.id COLLATE "C" ON CONFLICT (tenant, id) DO NOTHING;
END $$;
