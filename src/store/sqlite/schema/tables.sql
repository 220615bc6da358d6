-- The tables of version 8. Where one changes, the number grows and a migration is added (migrate.rs).

-- The order of messages is by timestamp, and a text does not sort as one ('.' is before 'Z'), so the
-- timestamp is stored, too: seconds since 1970 and nanoseconds, which holds every ts from the year 0001
-- to 9999 exactly. In an index that is 6 bytes for a ts without a fraction (the text has 20), since
-- SQLite stores small integers small and zero in none.
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY,
    message_id  TEXT NOT NULL UNIQUE,
    from_msisdn TEXT NOT NULL,
    to_msisdn   TEXT NOT NULL,
    ts          TEXT NOT NULL,
    ts_s        INTEGER NOT NULL,
    ts_ns       INTEGER NOT NULL,
    text        TEXT,
    created_at  TEXT NOT NULL,
    class_id    INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX messages_by_ts ON messages (ts_s, ts_ns, message_id);
CREATE INDEX messages_by_from ON messages (from_msisdn, ts_s, ts_ns, message_id);

-- Source and kind of messages. There are few pairs of them, and rows with the id of one are counted as
-- those of a sender are. The index messages_by_class, and fences of a class, are there once a provider's
-- secret has been set (classes.rs).
CREATE TABLE classes (
    id       INTEGER PRIMARY KEY,
    source   TEXT NOT NULL,
    kind     TEXT NOT NULL,
    n        INTEGER NOT NULL DEFAULT 0, -- messages up to totals.indexed_id
    is_heavy INTEGER NOT NULL DEFAULT 0, -- has fences of its own
    UNIQUE (source, kind)
) STRICT;
INSERT INTO classes (id, source, kind) VALUES (1, 'webhook', 'text');

-- What providers sent of messages, as src/original.rs writes it.
CREATE TABLE originals (
    id     INTEGER PRIMARY KEY, -- of the message
    stored BLOB NOT NULL
) STRICT;

-- The messages are the log. What is derived from it follows it up to a watermark, indexed_id, and a
-- reader adds the messages behind that (counts.rs). What is deleted is taken away by triggers, so that
-- sqlite3 may delete, too.
CREATE TABLE totals (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    messages    INTEGER NOT NULL, -- up to indexed_id
    senders     INTEGER NOT NULL, -- up to indexed_id
    last_id     INTEGER NOT NULL, -- the highest messages.id ever; none is given twice
    changes     INTEGER NOT NULL, -- messages deleted or changed, ever
    erased      INTEGER NOT NULL DEFAULT 0, -- messages erased, ever
    erasing_key BLOB,                       -- of the hashes in erased
    indexed_id  INTEGER NOT NULL DEFAULT 0, -- the watermark
    erasing     INTEGER NOT NULL DEFAULT 0  -- 1: an erasure has yet to rebuild the file
) STRICT;
INSERT INTO totals (one, messages, senders, last_id, changes, erasing_key)
VALUES (1, 0, 0, 0, 0, randomblob(32));

CREATE TABLE senders (
    id       INTEGER PRIMARY KEY,
    msisdn   TEXT NOT NULL UNIQUE,
    n        INTEGER NOT NULL,          -- messages up to totals.indexed_id
    is_heavy INTEGER NOT NULL DEFAULT 0 -- has fences of its own
) STRICT;
CREATE INDEX senders_by_n ON senders (n DESC, msisdn);

-- How many messages there are from one position of the order to the next (rank_index.rs).
CREATE TABLE rank_index (
    sender_id  INTEGER NOT NULL, -- 0: all senders; below: minus the id of a class
    level      INTEGER NOT NULL, -- 1 or 2
    ts_s       INTEGER NOT NULL,
    ts_ns      INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    n          INTEGER NOT NULL, -- messages from here to the next fence of the level
    PRIMARY KEY (sender_id, level, ts_s, ts_ns, message_id)
) STRICT, WITHOUT ROWID;

-- The texts once more, for searching (segments.rs).
CREATE TABLE segments (
    block     INTEGER PRIMARY KEY,        -- of the messages with id / 2048 = block
    changes   INTEGER NOT NULL DEFAULT 0, -- messages of the block deleted or changed, ever
    ts_s_max  INTEGER,
    trigrams  BLOB,                       -- the signature; null: there is no segment of the block
    receivers TEXT                        -- a JSON array
) STRICT;
CREATE TABLE segment_pages (
    id   INTEGER PRIMARY KEY, -- block * 64 and up
    rows BLOB NOT NULL
) STRICT;

-- A repeated delivery of an erased message is known by a keyed hash of its id.
CREATE TABLE erased (hash BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;

-- A cursor of the feed is valid in the history in which it was given (epochs.rs).
CREATE TABLE epochs (
    first_id     INTEGER PRIMARY KEY, -- of the messages of this epoch, the first
    first_cursor INTEGER NOT NULL UNIQUE
) STRICT;
INSERT INTO epochs VALUES (0, 0);

PRAGMA application_id = 1297304660;
