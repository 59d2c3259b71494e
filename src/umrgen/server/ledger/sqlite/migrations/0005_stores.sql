-- Several servers may share one ledger. The rules in `ledger/sql` now write the counts that triggers kept, in the same
-- transaction, so that all databases use the same statements.
DROP TRIGGER job_enters;
DROP TRIGGER job_moves;
DROP TRIGGER output_enters;
DROP TRIGGER output_expires;

-- The number of the last change of a job's state, drawn inside the transaction that makes the change: the order of
-- the numbers is the order of the commits, on any number of servers.
CREATE TABLE ledger_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    n  INTEGER NOT NULL
) STRICT;
INSERT INTO ledger_clock (id, n) SELECT 1, coalesce(max(changed), 0) FROM jobs;

-- The leases of tasks that only one server may run at a time (ms).
CREATE TABLE task_leases (
    name   TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Secrets that all servers of a ledger share, such as the one that signs image URLs.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The record of a reference image is written before its file, so that every file has a record.
ALTER TABLE uploads ADD COLUMN stored INTEGER NOT NULL DEFAULT 1;

-- Files that are no longer needed, written in the transaction that makes them so, and deleted later.
CREATE TABLE obsolete_files (
    session_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    not_before INTEGER NOT NULL,
    PRIMARY KEY (session_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX obsolete_files_due ON obsolete_files (not_before);

-- The column has the name of its content, the `GenerationRequest`.
ALTER TABLE jobs RENAME COLUMN spec TO request;
