-- For the deletion of old jobs: those that failed, those whose images are deleted, and the rows that refer to them.
CREATE INDEX jobs_failed ON jobs (completed_at) WHERE state = 'failed';
CREATE INDEX outputs_expired ON outputs (expired_at) WHERE expired_at IS NOT NULL;
CREATE INDEX outputs_of_job ON outputs (job_id);
CREATE INDEX idempotency_of_job ON idempotency (job_id);
