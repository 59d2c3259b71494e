-- The ledger's queries, SQLite dialect.

-- name: insert_job
INSERT INTO jobs (id, session_id, spec, engine, state, version, attempt, interruptions, token, worker,
                  lease_until, step, created_at, started_at, completed_at, outputs, error, error_code,
                  changed)
VALUES (:id, :session_id, :spec, :engine, :state, :version, :attempt, :interruptions, :token, :worker,
        :lease_until, :step, :created_at, :started_at, :completed_at, :outputs, :error, :error_code,
        :changed);

-- name: update_job
-- The compare-and-set: only the row that was read is written.
UPDATE jobs
SET state = :state, version = :version, attempt = :attempt, interruptions = :interruptions, token = :token,
    worker = :worker, lease_until = :lease_until, step = :step, started_at = :started_at,
    completed_at = :completed_at, outputs = :outputs, error = :error, error_code = :error_code,
    changed = :changed
WHERE id = :id AND version = :version - 1;

-- name: get_job
SELECT * FROM jobs WHERE id = :id;

-- name: get_jobs
SELECT * FROM jobs WHERE id IN (SELECT value FROM json_each(:ids));

-- name: changes
SELECT id, session_id, changed FROM jobs WHERE id IN (SELECT value FROM json_each(:ids));

-- name: last_change
SELECT coalesce(max(changed), 0) FROM jobs;

-- name: next_job
SELECT * FROM jobs WHERE state = 'queued' ORDER BY seq LIMIT 1;

-- name: queue_position
SELECT count(*) FROM jobs
WHERE state = 'queued' AND seq <= (SELECT seq FROM jobs WHERE id = :id AND state = 'queued');

-- name: page
SELECT * FROM jobs
WHERE session_id = :session_id AND seq < :before AND (:state IS NULL OR state = :state)
ORDER BY seq DESC LIMIT :limit;

-- name: count_queued
SELECT count(*) FROM jobs WHERE state = 'queued';

-- name: count_running
SELECT count(*) FROM jobs WHERE state = 'running';

-- name: lapsed
SELECT * FROM jobs WHERE state = 'running' AND lease_until < :now;

-- name: insert_output
INSERT INTO outputs (name, session_id, job_id, bytes, sha256, width, height, media_type, created_at)
VALUES (:name, :session_id, :job_id, :bytes, :sha256, :width, :height, :media_type, :created_at);

-- name: get_output
SELECT name, session_id, bytes, sha256, width, height, media_type FROM outputs
WHERE name = :name AND session_id = :session_id;

-- name: get_idempotency
SELECT digest, job_id FROM idempotency WHERE session_id = :session_id AND key = :key AND expires_at > :now;

-- name: put_idempotency
INSERT OR REPLACE INTO idempotency (session_id, key, digest, job_id, expires_at)
VALUES (:session_id, :key, :digest, :job_id, :expires_at);

-- name: expire_idempotency
-- A few at a time, with each new one: the table stays as small as a day's traffic.
DELETE FROM idempotency WHERE (session_id, key) IN
    (SELECT session_id, key FROM idempotency WHERE expires_at <= :now LIMIT 4);

-- name: insert_key
INSERT INTO keys (id, hash, session_id, name, created_at, revoked_at)
VALUES (:id, :hash, :session_id, :name, :created_at, :revoked_at);

-- name: get_key
SELECT * FROM keys WHERE hash = :hash;

-- name: list_keys
SELECT * FROM keys ORDER BY created_at, id;

-- name: revoke_key
UPDATE keys SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id;
