-- +goose Up

-- The one row is what a writer locks first: who may write, to when everything is charged, and where the audit chain begins and ends.
CREATE TABLE state (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    epoch       INTEGER NOT NULL,
    holder      TEXT NOT NULL,
    as_of       INTEGER NOT NULL,
    compacted   INTEGER NOT NULL,
    anchor_seq  INTEGER NOT NULL,
    anchor_hash BLOB NOT NULL,
    audit_seq   INTEGER NOT NULL,
    audit_hash  BLOB NOT NULL
);
INSERT INTO state VALUES (1, 0, '', 0, 0, 0, x'00', 0, x'00');

CREATE TABLE segments (
    pod_uid      TEXT NOT NULL,
    number       INTEGER NOT NULL,
    namespace    TEXT NOT NULL,
    pod          TEXT NOT NULL,
    node         TEXT NOT NULL,
    queue        TEXT NOT NULL,
    username     TEXT NOT NULL,
    workload     TEXT NOT NULL,
    labels       TEXT NOT NULL,
    class        TEXT NOT NULL,
    product      TEXT NOT NULL,
    profile      TEXT NOT NULL,
    milli_gpu    INTEGER NOT NULL,
    rate         INTEGER NOT NULL,
    price_micros INTEGER NOT NULL,
    currency     TEXT NOT NULL,
    startup      BOOLEAN NOT NULL,
    charged      BOOLEAN NOT NULL,
    start_at     INTEGER NOT NULL,
    through_at   INTEGER NOT NULL,
    end_at       INTEGER NOT NULL,
    estimated    BOOLEAN NOT NULL,
    closed       TEXT NOT NULL,
    audit_seq    INTEGER NOT NULL,
    PRIMARY KEY (pod_uid, number)
) WITHOUT ROWID;
-- What is open has end_at 0, and what has ended was charged to its end: so one index finds what lies in a range of time. It does
-- not change while a pod runs.
CREATE INDEX segments_end ON segments (end_at);
-- All that budgets ask, every tick: they read this instead of the rows.
CREATE INDEX segments_charged ON segments (end_at, charged, queue, rate, start_at) WHERE end_at > 0;

-- Segments whose rows are gone, by hour, day or month of UTC. key is a hash of what is in the columns after it, to labels.
CREATE TABLE rollups (
    unit              TEXT NOT NULL,
    start_at          INTEGER NOT NULL,
    key               BLOB NOT NULL,
    namespace         TEXT NOT NULL,
    queue             TEXT NOT NULL,
    username          TEXT NOT NULL,
    workload          TEXT NOT NULL,
    class             TEXT NOT NULL,
    product           TEXT NOT NULL,
    profile           TEXT NOT NULL,
    price_micros      INTEGER NOT NULL,
    currency          TEXT NOT NULL,
    startup           BOOLEAN NOT NULL,
    charged           BOOLEAN NOT NULL,
    estimated         BOOLEAN NOT NULL,
    labels            TEXT NOT NULL,
    milli_gpu_seconds INTEGER NOT NULL,
    rate_seconds      INTEGER NOT NULL,
    PRIMARY KEY (unit, start_at, key)
) WITHOUT ROWID;

-- One row for each time that a segment was closed: leaf is a hash of the segment, hash one of this row and the hash before.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY,
    pod_uid TEXT NOT NULL,
    number  INTEGER NOT NULL,
    end_at  INTEGER NOT NULL,
    leaf    BLOB NOT NULL,
    hash    BLOB NOT NULL
);
