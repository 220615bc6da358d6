-- The indexes of the derived tables, and the triggers that keep them right when messages are deleted or
-- changed, by this program or by sqlite3. There is no trigger on INSERT: it would cost 10 µs a row.

CREATE INDEX rank_index_empty ON rank_index (sender_id) WHERE n = 0;
CREATE INDEX segments_missing ON segments (block) WHERE trigrams IS NULL;

CREATE TRIGGER messages_deleted AFTER DELETE ON messages
WHEN old.id BETWEEN 1 AND (SELECT last_id FROM totals) BEGIN
    UPDATE totals SET changes = changes + 1;
    DELETE FROM segment_pages
    WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
    INSERT INTO segments (block, changes) VALUES (old.id / 2048, 1)
    ON CONFLICT (block) DO UPDATE
        SET changes = changes + 1, trigrams = NULL, receivers = NULL;
END;

CREATE TRIGGER indexed_messages_deleted AFTER DELETE ON messages
WHEN old.id BETWEEN 1 AND (SELECT indexed_id FROM totals) BEGIN
    UPDATE rank_index SET n = n - 1
    WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
        SELECT sender_id, level, ts_s, ts_ns, message_id FROM rank_index
        WHERE sender_id = 0 AND level = 1
            AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
        ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
    UPDATE rank_index SET n = n - 1
    WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
        SELECT sender_id, level, ts_s, ts_ns, message_id FROM rank_index
        WHERE sender_id = 0 AND level = 2
            AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
        ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
    UPDATE rank_index SET n = n - 1
    WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
        SELECT sender_id, level, ts_s, ts_ns, message_id FROM rank_index
        WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn)
            AND level = 1
            AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
        ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
    UPDATE rank_index SET n = n - 1
    WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
        SELECT sender_id, level, ts_s, ts_ns, message_id FROM rank_index
        WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn)
            AND level = 2
            AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
        ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);

    UPDATE rank_index SET n = n - 1
    WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
        SELECT sender_id, level, ts_s, ts_ns, message_id FROM rank_index
        WHERE sender_id = -old.class_id AND level = 1
            AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
        ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
    UPDATE rank_index SET n = n - 1
    WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
        SELECT sender_id, level, ts_s, ts_ns, message_id FROM rank_index
        WHERE sender_id = -old.class_id AND level = 2
            AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
        ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);

    UPDATE classes SET n = n - 1 WHERE id = old.class_id;
    UPDATE senders SET n = n - 1 WHERE msisdn = old.from_msisdn;
    DELETE FROM rank_index
    WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
    UPDATE totals SET messages = messages - 1, senders = senders -
        (SELECT count(*) FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
    DELETE FROM senders WHERE msisdn = old.from_msisdn AND n = 0;
END;

CREATE TRIGGER originals_deleted AFTER DELETE ON messages BEGIN
    DELETE FROM originals WHERE id = old.id;
END;

CREATE TRIGGER messages_reworded AFTER UPDATE OF text, to_msisdn ON messages BEGIN
    DELETE FROM segment_pages
    WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
    UPDATE segments SET changes = changes + 1, trigrams = NULL, receivers = NULL
    WHERE block = old.id / 2048;
    UPDATE totals SET changes = changes + 1;
END;

CREATE TRIGGER messages_moved BEFORE UPDATE ON messages
WHEN new.id IS NOT old.id OR new.message_id IS NOT old.message_id
    OR new.from_msisdn IS NOT old.from_msisdn OR new.class_id IS NOT old.class_id
    OR (new.ts, new.ts_s, new.ts_ns) IS NOT (old.ts, old.ts_s, old.ts_ns) BEGIN
    SELECT RAISE(ABORT, 'mailslot keeps counts by these columns: a message can be deleted, but not moved');
END;
