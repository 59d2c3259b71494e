-- The limits of a key, and when it was last used. Where a limit is NULL, the server's setting applies.
ALTER TABLE keys ADD COLUMN expires_at INTEGER;
ALTER TABLE keys ADD COLUMN rate INTEGER;
ALTER TABLE keys ADD COLUMN concurrent INTEGER;
ALTER TABLE keys ADD COLUMN daily INTEGER;
ALTER TABLE keys ADD COLUMN last_used_at INTEGER;

-- The day (since the epoch, UTC) of a session's last submission, and the number of submissions on that day.
ALTER TABLE sessions ADD COLUMN day INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN made INTEGER NOT NULL DEFAULT 0;

DROP TRIGGER job_enters;
CREATE TRIGGER job_enters AFTER INSERT ON jobs
BEGIN
    INSERT INTO sessions (id, queued, day, made) VALUES (new.session_id, 1, new.created_at / 86400000, 1)
    ON CONFLICT (id) DO UPDATE
    SET queued = queued + 1, made = iif(day = excluded.day, made + 1, 1), day = excluded.day;
END;

-- Retention deletes the file of an image and keeps the record.
ALTER TABLE outputs ADD COLUMN expired_at INTEGER;
CREATE INDEX outputs_kept ON outputs (created_at) WHERE expired_at IS NULL;

-- The total size of the images, so that no query has to sum up all rows.
CREATE TABLE kept (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO kept (id, bytes) SELECT 1, coalesce(sum(bytes), 0) FROM outputs;

CREATE TRIGGER output_enters AFTER INSERT ON outputs
BEGIN
    UPDATE kept SET bytes = bytes + new.bytes;
END;

CREATE TRIGGER output_expires AFTER UPDATE OF expired_at ON outputs
WHEN old.expired_at IS NULL AND new.expired_at IS NOT NULL
BEGIN
    UPDATE kept SET bytes = bytes - new.bytes;
END;

-- Reference images.
CREATE TABLE uploads (
    name       TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    width      INTEGER NOT NULL,
    height     INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_of_session ON uploads (session_id, created_at);
