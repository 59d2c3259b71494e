-- A random part of the names of a job's images: the job's id, which every image contains, must not be enough to derive
-- them. The names of jobs that had started before are kept.
ALTER TABLE jobs ADD COLUMN output_key TEXT NOT NULL DEFAULT '';
UPDATE jobs SET output_key = lower(hex(randomblob(16))) WHERE state = 'queued';
