-- Fairness: who waits, how many of each, and when each was last served.

ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN claimed_at INTEGER;

CREATE TABLE sessions (
    id      TEXT PRIMARY KEY,
    queued  INTEGER NOT NULL DEFAULT 0 CHECK (queued >= 0),
    running INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    served  INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO sessions (id, queued, running)
SELECT session_id, sum(state = 'queued'), sum(state = 'running') FROM jobs GROUP BY session_id;

-- The next session is the first row here, however many sessions there are.
CREATE INDEX sessions_waiting ON sessions (served, id) WHERE queued > 0;

-- The counts follow every change of a state, whoever makes it.
CREATE TRIGGER job_enters AFTER INSERT ON jobs
BEGIN
    INSERT INTO sessions (id, queued) VALUES (new.session_id, 1)
    ON CONFLICT (id) DO UPDATE SET queued = queued + 1;
END;

CREATE TRIGGER job_moves AFTER UPDATE OF state ON jobs WHEN old.state <> new.state
BEGIN
    UPDATE sessions
    SET queued = queued + (new.state = 'queued') - (old.state = 'queued'),
        running = running + (new.state = 'running') - (old.state = 'running')
    WHERE id = new.session_id;
END;

DROP INDEX jobs_queued;
CREATE INDEX jobs_queue ON jobs (session_id, priority DESC, seq) WHERE state = 'queued';

-- Pages of one state do not read through the others.
CREATE INDEX jobs_of_state ON jobs (session_id, state, seq);
