-- Version 7 gives the derived tables other names. The totals and the senders' counts follow the same
-- watermark as the fences do: what they had beyond it is taken away, and indexed again with the rest.
DROP TRIGGER messages_deleted;
DROP TRIGGER milestones_deleted;
DROP TRIGGER messages_reworded;
DROP TRIGGER messages_moved;
DROP INDEX milestones_empty;
DROP INDEX packs_missing;
ALTER TABLE milestones RENAME TO rank_index;
ALTER TABLE packs RENAME TO segments;
ALTER TABLE pieces RENAME TO segment_pages;
ALTER TABLE totals RENAME COLUMN counted_id TO indexed_id;

UPDATE totals SET messages = messages -
    (SELECT count(*) FROM messages WHERE id > indexed_id AND id <= last_id);
UPDATE senders SET n = n - (
    SELECT count(*) FROM totals CROSS JOIN messages NOT INDEXED ON id > indexed_id AND id <= last_id
    WHERE from_msisdn = msisdn)
WHERE msisdn IN (
    SELECT from_msisdn FROM totals CROSS JOIN messages NOT INDEXED
        ON id > indexed_id AND id <= last_id);
DELETE FROM rank_index WHERE sender_id IN (SELECT id FROM senders WHERE n = 0);
DELETE FROM senders WHERE n = 0;
UPDATE totals SET senders = (SELECT count(*) FROM senders);
