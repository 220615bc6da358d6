-- Cursors of the feed belong to an epoch, and an interrupted erasure is known by totals.erasing.
CREATE TABLE epochs (
    first_id     INTEGER PRIMARY KEY,
    first_cursor INTEGER NOT NULL UNIQUE
) STRICT;
INSERT INTO epochs VALUES (0, 0);
ALTER TABLE totals ADD COLUMN erasing INTEGER NOT NULL DEFAULT 0;
UPDATE packs SET receivers = NULL WHERE trigrams IS NULL;
