-- The ledger's queries, SQLite dialect. {job}: the columns of a job's record in their order (`rows.py`); {each}: a
-- parameter for each of them.

-- name: insert_job
INSERT INTO jobs ({job}) VALUES ({each});

-- name: update_job
-- The compare-and-set: only the row that was read is written.
UPDATE jobs
SET state = :state, version = :version, attempt = :attempt, interruptions = :interruptions, token = :token,
    worker = :worker, lease_until = :lease_until, step = :step, started_at = :started_at,
    claimed_at = :claimed_at, completed_at = :completed_at, outputs = :outputs, error = :error,
    error_code = :error_code, changed = :changed
WHERE id = :id AND version = :version - 1;

-- name: get_job
SELECT {job} FROM jobs WHERE id = :id;

-- name: get_jobs
SELECT {job} FROM jobs WHERE id IN (SELECT value FROM json_each(:ids));

-- name: changes
SELECT id, session_id, changed FROM jobs WHERE id IN (SELECT value FROM json_each(:ids));

-- name: last_change
SELECT coalesce(max(changed), 0) FROM jobs;

-- name: next_session
-- Of the sessions that wait and may run one more job, the one that was served longest ago.
SELECT id FROM sessions
WHERE queued > 0 AND (:running_cap = 0 OR running < :running_cap)
ORDER BY served, id LIMIT 1;

-- name: serve_session
UPDATE sessions SET served = :served WHERE id = :id;

-- name: next_job
SELECT {job} FROM jobs WHERE session_id = :session_id AND state = 'queued' ORDER BY priority DESC, seq LIMIT 1;

-- name: session_counts
SELECT queued, running, iif(day = :day, made, 0) AS made FROM sessions WHERE id = :id;

-- name: oldest_alive
SELECT id FROM jobs WHERE session_id = :session_id AND state IN ('queued', 'running') ORDER BY state DESC, seq LIMIT 1;

-- name: rank_in_session
-- How many of its own session's jobs come before it: two ranges of one index.
SELECT (SELECT count(*) FROM jobs
        WHERE session_id = own.session_id AND state = 'queued' AND priority > own.priority)
     + (SELECT count(*) FROM jobs
        WHERE session_id = own.session_id AND state = 'queued' AND priority = own.priority AND seq < own.seq)
FROM jobs AS own WHERE own.id = :id;

-- name: ahead_of_session
-- How many jobs of other sessions are served before the job of that rank: one a turn, and one more
-- from those whose turn comes first.
SELECT coalesce(sum(min(other.queued, :rank + ((other.served, other.id) < (own.served, own.id)))), 0)
FROM sessions AS other, sessions AS own
WHERE own.id = :session_id AND other.queued > 0 AND other.id <> own.id;

-- name: page
SELECT {job}, seq FROM jobs WHERE session_id = :session_id AND seq < :before ORDER BY seq DESC LIMIT :limit;

-- name: page_of_state
SELECT {job}, seq FROM jobs WHERE session_id = :session_id AND state = :state AND seq < :before
ORDER BY seq DESC LIMIT :limit;

-- name: count
SELECT coalesce(sum(queued), 0) AS queued, coalesce(sum(running), 0) AS running FROM sessions
WHERE queued > 0 OR running > 0;

-- name: recent_runs
-- The completed ones among the jobs made last.
SELECT {job} FROM jobs
WHERE seq > (SELECT coalesce(max(seq), 0) FROM jobs) - :among AND state = 'completed'
ORDER BY completed_at;

-- name: expired_leases
SELECT {job} FROM jobs WHERE state = 'running' AND lease_until < :now;

-- name: insert_output
INSERT INTO outputs (name, session_id, job_id, bytes, sha256, width, height, media_type, created_at)
VALUES (:name, :session_id, :job_id, :bytes, :sha256, :width, :height, :media_type, :created_at);

-- name: get_output
SELECT name, session_id, bytes, sha256, width, height, media_type, expired_at FROM outputs
WHERE name = :name AND session_id = :session_id;

-- name: known_files
SELECT name FROM outputs WHERE name IN (SELECT value FROM json_each(:names)) AND expired_at IS NULL
UNION ALL
SELECT name FROM uploads WHERE name IN (SELECT value FROM json_each(:names));

-- name: kept_bytes
SELECT bytes FROM kept;

-- name: oldest_outputs
SELECT name, session_id, bytes, sha256, width, height, media_type, created_at FROM outputs
WHERE expired_at IS NULL ORDER BY created_at LIMIT :limit;

-- name: expire_output
UPDATE outputs SET expired_at = :now WHERE name = :name;

-- name: insert_upload
INSERT INTO uploads (name, session_id, bytes, sha256, width, height, media_type, created_at)
VALUES (:name, :session_id, :bytes, :sha256, :width, :height, :media_type, :created_at);

-- name: uploads_of_session
SELECT name, session_id, bytes, sha256, width, height, media_type, created_at FROM uploads
WHERE session_id = :session_id ORDER BY created_at, name;

-- name: get_upload
SELECT name, session_id, bytes, sha256, width, height, media_type, created_at FROM uploads
WHERE name = :name AND session_id = :session_id;

-- name: delete_upload
DELETE FROM uploads WHERE name = :name AND session_id = :session_id;

-- name: old_uploads
-- A job that is still to be drawn keeps its reference images.
SELECT name, session_id, bytes, sha256, width, height, media_type, created_at FROM uploads
WHERE created_at < :before AND NOT EXISTS (
    SELECT 1 FROM jobs
    WHERE jobs.session_id = uploads.session_id AND state IN ('queued', 'running') AND instr(spec, uploads.name) > 0
) LIMIT :limit;

-- name: insert_webhook
INSERT INTO webhooks (id, job_id, session_id, key_id, url, host, state, next_at, created_at)
VALUES (:id, :job_id, :session_id, :key_id, :url, :host, 'pending', :next_at, :created_at);

-- name: due_webhooks
-- The longest due first, but for those on their way, and those of hosts and sessions that have enough on theirs.
SELECT * FROM webhooks
WHERE state = 'pending' AND next_at <= :now
  AND id NOT IN (SELECT value FROM json_each(:ids))
  AND host NOT IN (SELECT value FROM json_each(:hosts))
  AND session_id NOT IN (SELECT value FROM json_each(:sessions))
ORDER BY next_at LIMIT :limit;

-- name: next_webhook
SELECT min(next_at) FROM webhooks WHERE state = 'pending' AND next_at > :after;

-- name: note_delivery
-- What has been delivered, or has failed for good, stays as it is.
UPDATE webhooks
SET state = :state, attempts = :attempts, next_at = :next_at, delivered_at = :delivered_at, last_error = :last_error
WHERE id = :id AND state = 'pending';

-- name: webhooks_of
SELECT * FROM webhooks WHERE job_id IN (SELECT value FROM json_each(:job_ids));

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
INSERT INTO keys (id, hash, session_id, name, created_at, expires_at, rate, concurrent, daily, last_used_at, revoked_at)
VALUES (:id, :hash, :session_id, :name, :created_at, :expires_at, :rate, :concurrent, :daily, :last_used_at, :revoked_at);

-- name: get_key
SELECT * FROM keys WHERE hash = :hash;

-- name: get_key_by_id
SELECT * FROM keys WHERE id = :id;

-- name: list_keys
SELECT * FROM keys ORDER BY created_at, id;

-- name: revoke_key
UPDATE keys SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id;

-- name: use_key
UPDATE keys SET last_used_at = max(coalesce(last_used_at, 0), :at) WHERE id = :id;

-- name: readmit_key
UPDATE keys SET revoked_at = NULL WHERE id = :id;
