-- The registry of fingerprints, by which an image is recognised as made here: also after its file and its job were
-- deleted. `ledger/sql/fingerprints.py` describes the packed columns.

-- The images that are not indexed yet. `position`: eight times the change number of the job's end, and the number of the
-- image in the job.
CREATE TABLE new_fingerprints (
    position   BIGINT PRIMARY KEY,
    sha256     BYTEA NOT NULL,
    pdq        BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    engine     TEXT NOT NULL,
    job_seq    BIGINT NOT NULL
);

-- Groups of 16 images.
CREATE TABLE fingerprints (
    number  BIGINT PRIMARY KEY,
    engines TEXT NOT NULL,
    records BYTEA NOT NULL
);

-- The groups that have an image with this value in this part of its hash. The free part of each page takes the new
-- versions of its rows.
CREATE TABLE fingerprint_bands (
    key     BIGINT PRIMARY KEY,
    members BYTEA NOT NULL
) WITH (fillfactor = 80);
