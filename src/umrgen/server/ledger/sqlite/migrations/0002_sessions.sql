-- Fairness: for each session, the number of queued and running jobs, and when it was last served.

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

-- The next session is the first row of this index.
CREATE INDEX sessions_waiting ON sessions (served, id) WHERE queued > 0;

-- Triggers keep the counts.
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

-- For pages of the jobs in one state.
CREATE INDEX jobs_of_state ON jobs (session_id, state, seq);
