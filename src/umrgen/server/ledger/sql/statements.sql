-- The ledger's statements, in SQL that SQLite and PostgreSQL both understand; `statements.py` explains the braces.

-- name: insert_job
INSERT INTO jobs ({job}, searched) VALUES ({:job}, :searched);

-- name: update_job
-- Compare and set: writes the row only if it is still the one that was read.
UPDATE jobs
SET state = :state, version = :version, attempt = :attempt, interruptions = :interruptions, token = :token,
    worker = :worker, lease_until = :lease_until, step = :step, started_at = :started_at,
    claimed_at = :claimed_at, completed_at = :completed_at, outputs = :outputs, error = :error,
    error_code = :error_code, changed = :changed, edited_at = :edited_at
WHERE id = :id AND version = :version - 1;

-- name: get_job
SELECT {job} FROM jobs WHERE id = :id;

-- name: get_jobs
SELECT {job} FROM jobs WHERE id {in ids};

-- name: changes
SELECT id, session_id, changed FROM jobs WHERE id {in ids} AND deleted_at IS NULL;

-- name: changed_after
-- The jobs that any server changed after this number.
SELECT id, changed FROM jobs WHERE changed > :after ORDER BY changed;

-- name: advance_clock
UPDATE ledger_clock SET n = n + :count RETURNING n;

-- name: last_change
SELECT n FROM ledger_clock;

-- name: count_new_job
-- `day` is the day (since the epoch, UTC) of a session's last submission, `made` the number of submissions on that day.
INSERT INTO sessions (id, queued, running, served, day, made) VALUES (:session_id, :count, 0, 0, :day, :count)
ON CONFLICT (id) DO UPDATE
SET queued = sessions.queued + excluded.queued,
    made = CASE WHEN sessions.day = excluded.day THEN sessions.made + excluded.made ELSE excluded.made END,
    day = excluded.day;

-- name: count_state_change
-- `served` is the change number of the session's last claim.
UPDATE sessions SET queued = queued + :queued, running = running + :running, served = coalesce(:served, served)
WHERE id = :session_id;

-- name: next_jobs
-- The next job of each of the sessions that were served longest ago, of those with a queued job that may run one more.
SELECT {job} FROM (SELECT id AS waiting, served FROM sessions
                   WHERE queued > 0 AND (:running_cap = 0 OR running < :running_cap)
                   ORDER BY served, id LIMIT :limit) AS turn
JOIN jobs ON jobs.seq = (SELECT own.seq FROM jobs AS own WHERE own.session_id = turn.waiting AND own.state = 'queued'
                         ORDER BY own.priority DESC, own.seq LIMIT 1)
ORDER BY turn.served, turn.waiting;

-- name: next_jobs_of
-- The same for the jobs of one engine that need no model, or one of these.
SELECT {job} FROM (SELECT id AS waiting, served FROM sessions
                   WHERE queued > 0 AND (:running_cap = 0 OR running < :running_cap)
                     AND (SELECT fit.seq FROM jobs AS fit WHERE fit.session_id = sessions.id AND fit.state = 'queued'
                            AND fit.engine = :engine AND (fit.model = '' OR fit.model {in models}) LIMIT 1) IS NOT NULL
                   ORDER BY sessions.served, sessions.id LIMIT :limit) AS turn
JOIN jobs ON jobs.seq = (SELECT own.seq FROM jobs AS own WHERE own.session_id = turn.waiting AND own.state = 'queued'
                           AND own.engine = :engine AND (own.model = '' OR own.model {in models})
                         ORDER BY own.priority DESC, own.seq ASC LIMIT 1)
ORDER BY turn.served ASC, turn.waiting ASC;

-- name: session_counts
SELECT queued, running, CASE WHEN day = :day THEN made ELSE 0 END FROM sessions WHERE id = :id;

-- name: oldest_active
SELECT id FROM jobs WHERE session_id = :session_id AND state IN ('queued', 'running') ORDER BY state DESC, seq LIMIT 1;

-- name: rank_in_session
-- The number of jobs of the session that precede it: two ranges of one index.
SELECT (SELECT count(*) FROM jobs
        WHERE session_id = own.session_id AND state = 'queued' AND priority > own.priority)
     + (SELECT count(*) FROM jobs
        WHERE session_id = own.session_id AND state = 'queued' AND priority = own.priority AND seq < own.seq)
FROM jobs AS own WHERE own.id = :id;

-- name: ahead_of_session
-- The number of jobs of other sessions that are served before the job of that rank: one in each round, and one more
-- of each session that precedes this one in a round.
SELECT coalesce(sum(CASE WHEN queued < turns THEN queued ELSE turns END), 0)
FROM (SELECT other.queued AS queued,
             :rank + CASE WHEN (other.served, other.id) < (own.served, own.id) THEN 1 ELSE 0 END AS turns
      FROM sessions AS other, sessions AS own
      WHERE own.id = :session_id AND other.queued > 0 AND other.id <> own.id) AS others;

-- name: page
SELECT {job}, seq FROM jobs
WHERE session_id = :session_id AND seq < :before AND seq >= :lowest AND deleted_at IS NULL AND {matches}
ORDER BY seq DESC LIMIT :limit;

-- name: page_of_state
SELECT {job}, seq FROM jobs
WHERE session_id = :session_id AND state = :state AND seq < :before AND seq >= :lowest AND deleted_at IS NULL
  AND {matches}
ORDER BY seq DESC LIMIT :limit;

-- name: page_of_favorites
SELECT {job}, seq FROM jobs
WHERE session_id = :session_id AND favorite = 1 AND seq < :before AND seq >= :lowest AND {matches}
  AND (:state = '' OR state = :state)
ORDER BY seq DESC LIMIT :limit;

-- name: next_window
-- The jobs in which a search looks next: the lowest number of the first `size` ones before `before`, and their count.
SELECT coalesce(min(seq), 0), count(*)
FROM (SELECT seq FROM jobs WHERE session_id = :session_id AND seq < :before ORDER BY seq DESC LIMIT :size) AS part;

-- name: next_window_of_state
SELECT coalesce(min(seq), 0), count(*)
FROM (SELECT seq FROM jobs WHERE session_id = :session_id AND state = :state AND seq < :before
      ORDER BY seq DESC LIMIT :size) AS part;

-- name: next_window_of_favorites
SELECT coalesce(min(seq), 0), count(*)
FROM (SELECT seq FROM jobs WHERE session_id = :session_id AND favorite = 1 AND seq < :before
      ORDER BY seq DESC LIMIT :size) AS part;

-- name: set_favorite
UPDATE jobs SET favorite = :favorite, edited_at = :edited_at, version = :version, changed = :changed
WHERE id = :id AND version = :version - 1;

-- name: set_favorite_outputs
UPDATE outputs SET favorite = :favorite WHERE job_id = :id;

-- name: erase_job
UPDATE jobs
SET request = :request, searched = '', error = NULL, model = '', favorite = 0, edited_at = :edited_at,
    deleted_at = :deleted_at, version = :version, changed = :changed
WHERE id = :id AND version = :version - 1;

-- name: outputs_of_job
SELECT name, bytes FROM outputs WHERE job_id = :id AND expired_at IS NULL;

-- name: count
SELECT coalesce(sum(queued), 0), coalesce(sum(running), 0) FROM sessions
WHERE queued > 0 OR running > 0;

-- name: oldest_queued
-- The job with the lowest number among the first of each session with a queued job: one step in an index for each.
SELECT created_at FROM jobs
WHERE seq = (SELECT min(first) FROM (SELECT (SELECT min(own.seq) FROM jobs AS own
                                             WHERE own.session_id = sessions.id AND own.state = 'queued') AS first
                                     FROM sessions WHERE queued > 0) AS firsts);

-- name: recent_runs
-- The completed jobs among the last ones submitted.
SELECT {job} FROM jobs
WHERE seq > (SELECT coalesce(max(seq), 0) FROM jobs) - :among AND state = 'completed'
ORDER BY completed_at;

-- name: expired_leases
SELECT {job} FROM jobs WHERE state = 'running' AND (lease_until < :now OR worker = :worker);

-- name: old_failed_jobs
-- Failed jobs that ended before a time and whose webhook, if any, is not pending. The comparison of rows is one of times;
-- of two times, PostgreSQL expects a small range without statistics, and would read and sort all of it.
SELECT id, completed_at FROM jobs
WHERE state = 'failed' AND (completed_at, id) >= (:after, '') AND completed_at < :before AND favorite = 0
  AND NOT EXISTS (SELECT 1 FROM webhooks WHERE webhooks.job_id = jobs.id AND webhooks.state = 'pending')
ORDER BY completed_at LIMIT :limit;

-- name: old_completed_jobs
-- Jobs whose last image was deleted before a time and whose webhook, if any, is not pending. For the comparison of rows,
-- see old_failed_jobs.
SELECT job_id, min(expired_at) FROM (
    SELECT job_id, expired_at FROM outputs
    WHERE (expired_at, name) >= (:after, '') AND expired_at < :before AND favorite = 0
      AND NOT EXISTS (SELECT 1 FROM outputs AS other WHERE other.job_id = outputs.job_id
                      AND (other.expired_at IS NULL OR other.expired_at >= :before))
      AND NOT EXISTS (SELECT 1 FROM webhooks WHERE webhooks.job_id = outputs.job_id AND webhooks.state = 'pending')
    ORDER BY expired_at LIMIT :limit) AS old
GROUP BY job_id ORDER BY 2;

-- name: prune_calls
DELETE FROM calls WHERE job_id {in ids};

-- name: prune_idempotency
DELETE FROM idempotency WHERE job_id {in ids};

-- name: prune_webhooks
DELETE FROM webhooks WHERE job_id {in ids};

-- name: prune_outputs
DELETE FROM outputs WHERE job_id {in ids};

-- name: prune_jobs
DELETE FROM jobs WHERE id {in ids};

-- name: insert_output
INSERT INTO outputs ({output}, job_id, created_at, favorite)
VALUES ({:output}, :job_id, :created_at, :favorite);

-- name: add_kept_bytes
UPDATE kept SET bytes = bytes + :bytes;

-- name: get_output
SELECT {output}, expired_at FROM outputs
WHERE name = :name AND session_id = :session_id;

-- name: newest_output
SELECT created_at FROM outputs ORDER BY created_at DESC LIMIT 1;

-- name: kept_bytes
SELECT bytes FROM kept;

-- name: favorite_bytes
SELECT coalesce(sum(bytes), 0) FROM outputs WHERE expired_at IS NULL AND favorite = 1;

-- name: oldest_outputs
-- Those of favorites are kept.
SELECT {output}, created_at FROM outputs
WHERE expired_at IS NULL AND favorite = 0 ORDER BY created_at LIMIT :limit;

-- name: expire_output
UPDATE outputs SET expired_at = :now WHERE name = :name;

-- name: insert_upload
INSERT INTO uploads ({upload}, stored) VALUES ({:upload}, 0);

-- name: find_upload
SELECT {upload} FROM uploads WHERE session_id = :session_id AND sha256 = :sha256 AND stored = 1
ORDER BY created_at DESC LIMIT 1;

-- name: renew_upload
UPDATE uploads SET created_at = :created_at WHERE name = :name;

-- name: mark_upload_stored
UPDATE uploads SET stored = 1 WHERE name = :name AND session_id = :session_id;

-- name: count_uploads
-- Uploads that were interrupted long ago are not counted.
SELECT count(*) FROM uploads WHERE session_id = :session_id AND (stored = 1 OR created_at >= :since);

-- name: uploads_of_session
SELECT {upload} FROM uploads WHERE session_id = :session_id AND stored = 1 ORDER BY created_at, name;

-- name: get_upload
SELECT {upload} FROM uploads WHERE name = :name AND session_id = :session_id AND stored = 1;

-- name: delete_upload
DELETE FROM uploads WHERE name = :name AND session_id = :session_id;

-- name: old_uploads
-- A queued or running job keeps its reference images.
SELECT {upload} FROM uploads
WHERE created_at < :before AND NOT EXISTS (
    SELECT 1 FROM jobs
    WHERE jobs.session_id = uploads.session_id AND jobs.state IN ('queued', 'running')
      AND jobs.request LIKE '%' || uploads.name || '%'
) LIMIT :limit;

-- name: count_templates
-- Those that would be kept beside the one that is written.
SELECT count(*) FROM templates WHERE session_id = :session_id AND name <> :name;

-- name: put_template
INSERT INTO templates (session_id, name, request, updated_at) VALUES (:session_id, :name, :request, :updated_at)
ON CONFLICT (session_id, name) DO UPDATE SET request = excluded.request, updated_at = excluded.updated_at;

-- name: templates_of_session
SELECT name, session_id, request, updated_at FROM templates WHERE session_id = :session_id;

-- name: get_template
SELECT name, session_id, request, updated_at FROM templates WHERE session_id = :session_id AND name = :name;

-- name: delete_template
DELETE FROM templates WHERE session_id = :session_id AND name = :name;

-- name: insert_webhook
INSERT INTO webhooks ({webhook}) VALUES ({:webhook});

-- name: due_webhooks
-- The longest due first, without those in flight and those of hosts and sessions at their limit.
SELECT {webhook} FROM webhooks
WHERE state = 'pending' AND next_at <= :now
  AND NOT (id {in ids}) AND NOT (host {in hosts}) AND NOT (session_id {in sessions})
ORDER BY next_at LIMIT :limit;

-- name: count_pending_webhooks
SELECT count(*) FROM webhooks WHERE state = 'pending';

-- name: next_webhook
SELECT min(next_at) FROM webhooks WHERE state = 'pending' AND next_at > :after;

-- name: record_attempt
-- A webhook that was delivered, or failed finally, does not change.
UPDATE webhooks
SET state = :state, attempts = :attempts, next_at = :next_at, delivered_at = :delivered_at, last_error = :last_error
WHERE id = :id AND state = 'pending';

-- name: webhooks_of
SELECT {webhook} FROM webhooks WHERE job_id {in job_ids};

-- name: get_idempotency
SELECT digest, job_id FROM idempotency WHERE session_id = :session_id AND key = :key AND expires_at > :now;

-- name: put_idempotency
INSERT INTO idempotency (session_id, key, digest, job_id, expires_at)
VALUES (:session_id, :key, :digest, :job_id, :expires_at)
ON CONFLICT (session_id, key) DO UPDATE
SET digest = excluded.digest, job_id = excluded.job_id, expires_at = excluded.expires_at;

-- name: expire_idempotency
-- Each new key deletes a few expired ones, so the table has about a day's keys.
DELETE FROM idempotency WHERE (session_id, key) IN
    (SELECT session_id, key FROM idempotency WHERE expires_at <= :now LIMIT 4);

-- name: unclaimed_call
-- The job of a call that was cut off, oldest first; a failed job is not drawn again by taking it.
SELECT calls.job_id FROM calls JOIN jobs ON jobs.id = calls.job_id
WHERE calls.session_id = :session_id AND calls.digest = :digest
  AND calls.held_until <= :now AND calls.held_until > :since AND jobs.state <> 'failed'
ORDER BY jobs.seq LIMIT 1;

-- name: insert_call
INSERT INTO calls ({call}, job_id, session_id) VALUES ({:call}, :job_id, :session_id);

-- name: take_call
UPDATE calls SET call_id = :call_id, worker = :worker, held_until = :held_until WHERE job_id = :job_id;

-- name: hold_calls
UPDATE calls SET held_until = :until WHERE call_id = :call_id;

-- name: release_calls
UPDATE calls SET held_until = :now WHERE worker = :worker AND held_until > :now;

-- name: delete_calls
DELETE FROM calls WHERE call_id = :call_id;

-- name: expire_calls
DELETE FROM calls WHERE job_id IN (SELECT job_id FROM calls WHERE held_until <= :before LIMIT 4);

-- name: insert_key
INSERT INTO keys ({key}) VALUES ({:key});

-- name: get_key
SELECT {key} FROM keys WHERE hash = :hash;

-- name: get_key_by_id
SELECT {key} FROM keys WHERE id = :id;

-- name: list_keys
SELECT {key} FROM keys ORDER BY created_at, id;

-- name: revoke_key
UPDATE keys SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id;

-- name: end_key_now
UPDATE keys SET revoked_at = :at WHERE id = :id AND revoked_at IS NULL;

-- name: end_key_later
UPDATE keys SET expires_at = CASE WHEN expires_at < :at THEN expires_at ELSE :at END
WHERE id = :id AND revoked_at IS NULL;

-- name: limit_key
UPDATE keys SET rate = :rate, concurrent = :concurrent, daily = :daily WHERE id = :id;

-- name: use_key
UPDATE keys SET last_used_at = :at WHERE id = :id AND (last_used_at IS NULL OR last_used_at < :at);

-- name: readmit_key
UPDATE keys SET revoked_at = NULL WHERE id = :id;

-- name: delete_key
DELETE FROM keys WHERE id = :id;

-- name: acquire_task
INSERT INTO task_leases (name, holder, until) VALUES (:task, :holder, :until)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE task_leases.holder = excluded.holder OR task_leases.until <= :now;

-- name: release_task
DELETE FROM task_leases WHERE name = :task AND holder = :holder;

-- name: report_worker
INSERT INTO workers ({worker}) VALUES ({:worker})
ON CONFLICT (id) DO UPDATE SET engine = excluded.engine, state = excluded.state, capacity = excluded.capacity,
    info = excluded.info, until = excluded.until;

-- name: expire_workers
DELETE FROM workers WHERE until <= :now;

-- name: remove_worker
DELETE FROM workers WHERE id = :id;

-- name: live_workers
SELECT {worker} FROM workers WHERE until > :now ORDER BY engine, id;

-- name: queued_by_engine
SELECT engine, model, count(*) FROM jobs WHERE state = 'queued' GROUP BY engine, model ORDER BY engine, model;

-- name: watch_previews
INSERT INTO previews (job_id, until) VALUES (:job_id, :until) ON CONFLICT (job_id) DO UPDATE SET until = excluded.until;

-- name: expire_previews
-- Each watch of a further job deletes a few rows that no server watches.
DELETE FROM previews WHERE job_id IN (SELECT job_id FROM previews WHERE until <= :now LIMIT 4);

-- name: watched_previews
SELECT job_id FROM previews WHERE job_id {in ids} AND until > :now ORDER BY job_id;

-- name: put_preview
UPDATE previews SET version = :version, image = :image WHERE job_id = :job_id;

-- name: remove_previews
DELETE FROM previews WHERE job_id {in ids};

-- name: preview_versions
SELECT job_id, version FROM previews WHERE job_id {in ids} AND version > 0 ORDER BY version, job_id;

-- name: get_previews
SELECT job_id, version, image FROM previews WHERE job_id {in ids} AND image IS NOT NULL;

-- name: database_time
-- For PostgreSQL: the time of its machine, in milliseconds.
SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT);

-- name: propose_secret
INSERT INTO secrets (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: get_secret
SELECT value FROM secrets WHERE name = :name;

-- name: add_obsolete_file
INSERT INTO obsolete_files (session_id, name, not_before) VALUES (:session_id, :name, :not_before)
ON CONFLICT (session_id, name) DO NOTHING;

-- name: obsolete_files
SELECT session_id, name FROM obsolete_files WHERE not_before <= :now ORDER BY not_before LIMIT :limit;

-- name: forget_obsolete_file
DELETE FROM obsolete_files WHERE session_id = :session_id AND name = :name AND not_before <= :now;

-- name: insert_new_fingerprint
INSERT INTO new_fingerprints (position, sha256, pdq, created_at, engine, job_seq)
VALUES (:position, :sha256, :pdq, :created_at, :engine, (SELECT seq FROM jobs WHERE id = :job_id));

-- name: add_unhashed_image
INSERT INTO unhashed_images (name) VALUES (:name) ON CONFLICT (name) DO NOTHING;

-- name: unhashed_images
-- With NULL for images whose records were pruned.
SELECT unhashed_images.name, outputs.session_id, outputs.sha256, outputs.created_at, jobs.engine, jobs.id
FROM unhashed_images
LEFT JOIN outputs ON outputs.name = unhashed_images.name
LEFT JOIN jobs ON jobs.id = outputs.job_id
ORDER BY unhashed_images.name LIMIT :limit;

-- name: delete_unhashed_image
DELETE FROM unhashed_images WHERE name = :name;

-- name: new_fingerprints
-- The oldest images that are not indexed yet.
SELECT position, sha256, pdq, created_at, engine, job_seq FROM new_fingerprints ORDER BY position LIMIT :limit;

-- name: delete_new_fingerprints
DELETE FROM new_fingerprints WHERE position <= :position;

-- name: last_fingerprint_group
SELECT coalesce(max(number), -1) FROM fingerprints;

-- name: insert_fingerprint_group
INSERT INTO fingerprints (number, engines, records) VALUES (:number, :engines, :records);

-- name: fingerprint_groups
SELECT engines, records FROM fingerprints WHERE number {in numbers} ORDER BY number;

-- name: fingerprint_bands
SELECT key, members FROM fingerprint_bands WHERE key {in keys};

-- name: put_fingerprint_band
INSERT INTO fingerprint_bands (key, members) VALUES (:key, :members)
ON CONFLICT (key) DO UPDATE SET members = excluded.members;

-- name: own_job
-- The first of these jobs that is of the session, and that it has not deleted.
SELECT id FROM jobs WHERE seq {in numbers} AND session_id = :session_id AND deleted_at IS NULL ORDER BY seq LIMIT 1;
