CREATE TABLE jobs (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    session_id    TEXT NOT NULL,
    spec          TEXT NOT NULL,
    engine        TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('queued', 'running', 'completed', 'failed')),
    version       INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    interruptions INTEGER NOT NULL,
    token         INTEGER NOT NULL,
    worker        TEXT,
    lease_until   INTEGER,
    step          INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    completed_at  INTEGER,
    outputs       TEXT NOT NULL,
    error         TEXT,
    error_code    TEXT,
    changed       INTEGER NOT NULL,
    CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CHECK ((state = 'completed') = (outputs <> '[]'))
) STRICT;

-- Indexes of unfinished jobs: their size does not depend on the number of finished jobs.
CREATE INDEX jobs_queued ON jobs (seq) WHERE state = 'queued';
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_of_session ON jobs (session_id, seq);

-- For the highest change number, which is read when the ledger is opened.
CREATE INDEX jobs_changed ON jobs (changed);

CREATE TABLE outputs (
    name       TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    job_id     TEXT NOT NULL REFERENCES jobs (id),
    bytes      INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    width      INTEGER NOT NULL,
    height     INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    session_id TEXT NOT NULL,
    key        TEXT NOT NULL,
    digest     BLOB NOT NULL,
    job_id     TEXT NOT NULL REFERENCES jobs (id),
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (session_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE keys (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
