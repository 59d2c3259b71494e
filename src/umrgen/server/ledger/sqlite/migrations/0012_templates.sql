-- Templates: requests that a session keeps under its own names. `request`: fields of a generation request, as JSON.
CREATE TABLE templates (
    session_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    request    TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (session_id, name)
) STRICT, WITHOUT ROWID;
