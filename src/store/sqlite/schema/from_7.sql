-- Messages have a source and a kind, and may have an original beside them. What is stored already was
-- delivered to /webhook.
DROP TRIGGER IF EXISTS messages_deleted;
DROP TRIGGER IF EXISTS indexed_messages_deleted;
DROP TRIGGER IF EXISTS messages_reworded;
DROP TRIGGER IF EXISTS messages_moved;
DROP INDEX IF EXISTS rank_index_empty;
DROP INDEX IF EXISTS segments_missing;

ALTER TABLE messages ADD COLUMN class_id INTEGER NOT NULL DEFAULT 1;
CREATE TABLE classes (
    id       INTEGER PRIMARY KEY,
    source   TEXT NOT NULL,
    kind     TEXT NOT NULL,
    n        INTEGER NOT NULL DEFAULT 0,
    is_heavy INTEGER NOT NULL DEFAULT 0,
    UNIQUE (source, kind)
) STRICT;
CREATE TABLE originals (
    id     INTEGER PRIMARY KEY,
    stored BLOB NOT NULL
) STRICT;

INSERT INTO classes SELECT 1, 'webhook', 'text', messages, 0 FROM totals;
