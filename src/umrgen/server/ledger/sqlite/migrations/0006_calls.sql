-- The jobs of calls that last until the image is there. A call holds its job until `held_until` (ms), which it renews;
-- the row is deleted when the response was sent. After `held_until`, an equal call takes the job.
CREATE TABLE calls (
    job_id     TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    call_id    TEXT NOT NULL,
    digest     BLOB NOT NULL,
    worker     TEXT NOT NULL,
    held_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX calls_by_digest ON calls (session_id, digest);
CREATE INDEX calls_by_id ON calls (call_id);
CREATE INDEX calls_by_end ON calls (held_until);
