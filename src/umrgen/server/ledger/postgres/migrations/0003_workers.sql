-- The model that a job needs, the workers that live, and previews for the watchers at other servers: a preview that a
-- crash of PostgreSQL deletes is followed by the next one.
ALTER TABLE jobs ADD COLUMN model TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE TABLE workers (
    id       TEXT COLLATE "C" PRIMARY KEY,
    engine   TEXT NOT NULL,
    state    TEXT NOT NULL,
    capacity BIGINT NOT NULL,
    info     TEXT,
    until    BIGINT NOT NULL
);
CREATE UNLOGGED TABLE previews (
    job_id  TEXT COLLATE "C" PRIMARY KEY,
    until   BIGINT NOT NULL,
    version BIGINT NOT NULL DEFAULT 0,
    image   BYTEA
);
CREATE INDEX previews_expiry ON previews (until);
