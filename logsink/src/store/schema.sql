CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,          -- the journal's index
    hash BLOB NOT NULL,              -- of the journal's record
    time INTEGER NOT NULL,           -- the event's, microseconds since 1970, UTC
    received INTEGER NOT NULL,       -- the sink's
    event_type TEXT NOT NULL,
    event_id TEXT NOT NULL,
    severity INTEGER NOT NULL,       -- RFC 5424: lower is worse
    sensor TEXT NOT NULL,
    run TEXT NOT NULL,
    seq INTEGER NOT NULL,
    domain TEXT,
    domid INTEGER,
    session TEXT,
    flow_id INTEGER,
    src_ip TEXT,
    src_port INTEGER,
    dest_ip TEXT,
    dest_port INTEGER,
    proto TEXT,
    signature TEXT,
    json TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_time ON events (time);
CREATE INDEX IF NOT EXISTS events_type ON events (event_type, id);
CREATE INDEX IF NOT EXISTS events_event_id ON events (event_id, id);
CREATE INDEX IF NOT EXISTS events_domain ON events (domain, id);
CREATE INDEX IF NOT EXISTS events_src_ip ON events (src_ip, id);
-- The last event of each run of each sensor that is in the journal: what comes again is dropped.
CREATE TABLE IF NOT EXISTS runs (
    sensor TEXT NOT NULL,
    run TEXT NOT NULL,
    seq INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    PRIMARY KEY (sensor, run)
) WITHOUT ROWID;
-- One row: index of the last journal record that was looked at, stored or not.
CREATE TABLE IF NOT EXISTS replayed (one INTEGER PRIMARY KEY CHECK (one = 1), last_id INTEGER NOT NULL);
INSERT OR IGNORE INTO replayed VALUES (1, 0);
