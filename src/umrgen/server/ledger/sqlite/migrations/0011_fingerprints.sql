-- The registry of fingerprints, by which an image is recognised as made here: also after its file and its job were
-- deleted. `ledger/sql/fingerprints.py` describes the packed columns.

-- The images that are not indexed yet. `position`: eight times the change number of the job's end, and the number of the
-- image in the job.
CREATE TABLE new_fingerprints (
    position   INTEGER PRIMARY KEY,
    sha256     BLOB NOT NULL,
    pdq        BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    engine     TEXT NOT NULL,
    job_seq    INTEGER NOT NULL
) STRICT;

-- Groups of 16 images.
CREATE TABLE fingerprints (
    number  INTEGER PRIMARY KEY,
    engines TEXT NOT NULL,
    records BLOB NOT NULL
) STRICT;

-- The groups that have an image with this value in this part of its hash.
CREATE TABLE fingerprint_bands (
    key     INTEGER PRIMARY KEY,
    members BLOB NOT NULL
) STRICT;
