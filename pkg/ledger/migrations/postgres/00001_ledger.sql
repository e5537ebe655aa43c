-- +goose Up

-- The one row is what a writer locks first: who may write, to when everything is charged, and where the audit chain begins and ends.
CREATE TABLE state (
    id          bigint PRIMARY KEY CHECK (id = 1),
    epoch       bigint NOT NULL,
    holder      text COLLATE "C" NOT NULL,
    as_of       bigint NOT NULL,
    compacted   bigint NOT NULL,
    anchor_seq  bigint NOT NULL,
    anchor_hash bytea NOT NULL,
    audit_seq   bigint NOT NULL,
    audit_hash  bytea NOT NULL
);
INSERT INTO state VALUES (1, 0, '', 0, 0, 0, '\x00', 0, '\x00');

CREATE TABLE segments (
    pod_uid      text COLLATE "C" NOT NULL,
    number       integer NOT NULL,
    namespace    text COLLATE "C" NOT NULL,
    pod          text COLLATE "C" NOT NULL,
    node         text COLLATE "C" NOT NULL,
    queue        text COLLATE "C" NOT NULL,
    username     text COLLATE "C" NOT NULL,
    workload     text COLLATE "C" NOT NULL,
    labels       text COLLATE "C" NOT NULL,
    class        text COLLATE "C" NOT NULL,
    product      text COLLATE "C" NOT NULL,
    profile      text COLLATE "C" NOT NULL,
    milli_gpu    bigint NOT NULL,
    rate         bigint NOT NULL,
    price_micros bigint NOT NULL,
    currency     text COLLATE "C" NOT NULL,
    startup      boolean NOT NULL,
    charged      boolean NOT NULL,
    start_at     bigint NOT NULL,
    through_at   bigint NOT NULL,
    end_at       bigint NOT NULL,
    estimated    boolean NOT NULL,
    closed       text COLLATE "C" NOT NULL,
    audit_seq    bigint NOT NULL,
    PRIMARY KEY (pod_uid, number)
);
-- What is open has end_at 0, and what has ended was charged to its end: so one index finds what lies in a range of time. It does
-- not change while a pod runs.
CREATE INDEX segments_end ON segments (end_at);
-- All that budgets ask, every tick: they read this instead of the rows.
CREATE INDEX segments_charged ON segments (end_at, charged, queue, rate, start_at) WHERE end_at > 0;

-- Segments whose rows are gone, by hour, day or month of UTC. key is a hash of what is in the columns after it, to labels.
CREATE TABLE rollups (
    unit              text COLLATE "C" NOT NULL,
    start_at          bigint NOT NULL,
    key               bytea NOT NULL,
    namespace         text COLLATE "C" NOT NULL,
    queue             text COLLATE "C" NOT NULL,
    username          text COLLATE "C" NOT NULL,
    workload          text COLLATE "C" NOT NULL,
    class             text COLLATE "C" NOT NULL,
    product           text COLLATE "C" NOT NULL,
    profile           text COLLATE "C" NOT NULL,
    price_micros      bigint NOT NULL,
    currency          text COLLATE "C" NOT NULL,
    startup           boolean NOT NULL,
    charged           boolean NOT NULL,
    estimated         boolean NOT NULL,
    labels            text COLLATE "C" NOT NULL,
    milli_gpu_seconds bigint NOT NULL,
    rate_seconds      bigint NOT NULL,
    PRIMARY KEY (unit, start_at, key)
);

-- One row for each time that a segment was closed: leaf is a hash of the segment, hash one of this row and the hash before.
CREATE TABLE audit (
    seq     bigint PRIMARY KEY,
    pod_uid text COLLATE "C" NOT NULL,
    number  integer NOT NULL,
    end_at  bigint NOT NULL,
    leaf    bytea NOT NULL,
    hash    bytea NOT NULL
);
