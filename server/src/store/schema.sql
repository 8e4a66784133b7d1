-- Version 1. Documents are JSON of the types in `kaltstart_core::machine`; columns beside them
-- are what is searched by.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    doc TEXT NOT NULL
) STRICT;

-- Everything by which exactly one node is found: mac, name, reserved address, and fingerprints
-- of live secrets.
CREATE TABLE node_keys (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    node TEXT NOT NULL REFERENCES nodes (id),
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_keys_by_node ON node_keys (node);

CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    node TEXT NOT NULL REFERENCES nodes (id),
    profile TEXT NOT NULL,
    state TEXT NOT NULL,
    deadline INTEGER,
    doc TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_deadline ON jobs (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX jobs_by_profile ON jobs (profile, state);

CREATE TABLE leases (
    address TEXT PRIMARY KEY,
    doc TEXT NOT NULL
) STRICT;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    node TEXT NOT NULL,
    job TEXT,
    data TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_job ON events (job) WHERE job IS NOT NULL;

-- Lines of agents' logs; `boot` and `line` recognise a repeated batch.
CREATE TABLE log_lines (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    node TEXT NOT NULL,
    job TEXT,
    boot TEXT NOT NULL,
    line INTEGER NOT NULL,
    time INTEGER NOT NULL,
    level TEXT NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (boot, line)
) STRICT;
CREATE INDEX log_lines_by_job ON log_lines (job, id) WHERE job IS NOT NULL;
