-- Favorites, which retention keeps; jobs that their owner deleted; and the prompt in the form in which it is searched
-- (`searchable`), which the program writes for older jobs after this script.
ALTER TABLE jobs ADD COLUMN favorite INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN edited_at INTEGER;
ALTER TABLE jobs ADD COLUMN deleted_at INTEGER;
ALTER TABLE jobs ADD COLUMN searched TEXT NOT NULL DEFAULT '';
ALTER TABLE outputs ADD COLUMN favorite INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_favorite ON jobs (session_id, seq) WHERE favorite = 1;
DROP INDEX outputs_kept;
CREATE INDEX outputs_kept ON outputs (created_at) WHERE expired_at IS NULL AND favorite = 0;
CREATE INDEX outputs_favorite ON outputs (bytes) WHERE expired_at IS NULL AND favorite = 1;
