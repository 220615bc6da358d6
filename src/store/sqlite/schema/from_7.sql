-- Messages have a source and a kind, and may have an original beside them. What is stored already was
-- delivered to /webhook.
DROP TRIGGER IF EXISTS messages_deleted;
DROP TRIGGER IF EXISTS indexed_messages_deleted;
DROP TRIGGER IF EXISTS messages_reworded;
DROP TRIGGER IF EXISTS messages_moved;
DROP INDEX IF EXISTS rank_index_empty;
DROP INDEX IF EXISTS segments_missing;

ALTER TABLE messages ADD COLUMN class_id INTEGER NOT NULL DEFAULT 1;
CREATE INDEX messages_by_class ON messages (class_id, ts_s, ts_ns, message_id);
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

-- All messages are of the one class, so its fences are those of all messages.
INSERT INTO classes SELECT 1, 'webhook', 'text', messages, 1 FROM totals;
INSERT INTO rank_index
SELECT -1, level, ts_s, ts_ns, message_id, n FROM rank_index WHERE sender_id = 0;
