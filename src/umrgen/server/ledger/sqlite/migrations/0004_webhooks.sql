-- Webhooks: written in the transaction that ends their job, so that a crash loses none.

ALTER TABLE jobs ADD COLUMN key_id TEXT NOT NULL DEFAULT '';

CREATE TABLE webhooks (
    id           TEXT PRIMARY KEY,
    job_id       TEXT NOT NULL UNIQUE REFERENCES jobs (id) ON DELETE CASCADE,
    session_id   TEXT NOT NULL,
    key_id       TEXT NOT NULL,
    url          TEXT NOT NULL,
    host         TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_at      INTEGER,
    created_at   INTEGER NOT NULL,
    delivered_at INTEGER,
    last_error   TEXT,
    CHECK ((state = 'pending') = (next_at IS NOT NULL)),
    CHECK ((state = 'delivered') = (delivered_at IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- An index of pending webhooks: its size does not depend on the number of delivered ones.
CREATE INDEX webhooks_due ON webhooks (next_at) WHERE state = 'pending';
