-- The model that a job needs, the workers that live, and previews for the watchers at other servers.
ALTER TABLE jobs ADD COLUMN model TEXT NOT NULL DEFAULT '';
CREATE TABLE workers (
    id       TEXT PRIMARY KEY,
    engine   TEXT NOT NULL,
    state    TEXT NOT NULL,
    capacity INTEGER NOT NULL,
    info     TEXT,
    until    INTEGER NOT NULL
) STRICT;
CREATE TABLE previews (
    job_id  TEXT PRIMARY KEY,
    until   INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 0,
    image   BLOB
) STRICT;
CREATE INDEX previews_expiry ON previews (until);
