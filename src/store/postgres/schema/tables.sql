-- The tables of version 1, in a schema of their own, since a database may be shared. Where one changes,
-- the number grows and a migration is added (migrate.rs).

-- One row. Every transaction that stores or erases messages locks it first, so that ids are committed in
-- their order, on every node, and a commit that stores nothing waits for the standby, too.
CREATE TABLE mailslot.sequencer (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    version       integer NOT NULL, -- of this schema
    writable_from integer NOT NULL, -- the oldest version whose program may still write
    history       text NOT NULL     -- of which server the last epoch is (epochs.rs)
);
INSERT INTO mailslot.sequencer (version, writable_from, history) VALUES (1, 1, '');

-- Of messages.id, which is also the cursor of the feed.
CREATE SEQUENCE mailslot.seq AS bigint;

-- A cursor of the feed is valid in the history in which it was given (epochs.rs).
CREATE TABLE mailslot.epochs (
    first_id bigint PRIMARY KEY, -- the ids of this epoch are at least this
    last_id  bigint NOT NULL     -- the last id of the epochs before, as far as it has survived
);

-- Every text is COLLATE "C": the order is that of bytes, and no library's upgrade changes it. A text has
-- no U+0000, which the server cannot store (text.rs).
CREATE TABLE mailslot.messages (
    id          bigint PRIMARY KEY,
    -- SHA-256 of message_id. An entry of an index has at most 2,704 bytes, and an id may have 32,768.
    hash        bytea NOT NULL CONSTRAINT messages_once UNIQUE,
    message_id  text COLLATE "C" NOT NULL,
    from_msisdn text COLLATE "C" NOT NULL,
    to_msisdn   text COLLATE "C" NOT NULL,
    ts          text COLLATE "C" NOT NULL,
    ts_s        bigint NOT NULL,  -- what ts says: seconds since 1970, and nanoseconds
    ts_ns       integer NOT NULL,
    text        text COLLATE "C",
    folded      text COLLATE "C", -- the text in folded case; null where that is the text itself
    created_at  timestamptz NOT NULL, -- by the server's clock, which is one for all nodes
    source      text COLLATE "C" NOT NULL DEFAULT 'webhook',
    kind        text COLLATE "C" NOT NULL DEFAULT 'text',
    original    bytea             -- what the provider sent of it, compressed (src/original.rs)
);
-- For the same reason these have the beginning of an id only.
CREATE INDEX messages_by_ts ON mailslot.messages (ts_s, ts_ns, left(message_id, 256));
CREATE INDEX messages_by_from
    ON mailslot.messages (from_msisdn, ts_s, ts_ns, left(message_id, 256));
CREATE INDEX messages_by_to
    ON mailslot.messages (to_msisdn, ts_s, ts_ns, left(message_id, 256));
CREATE INDEX messages_by_class
    ON mailslot.messages (source, kind, ts_s, ts_ns, left(message_id, 256));

-- A repeated delivery of an erased message is known by a keyed hash of its id.
CREATE TABLE mailslot.erased (hash bytea PRIMARY KEY);

-- What is derived from the messages covers those with an id up to counted_id; a reader adds the others.
CREATE TABLE mailslot.totals (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    messages    bigint NOT NULL DEFAULT 0,
    senders     bigint NOT NULL DEFAULT 0,
    counted_id  bigint NOT NULL DEFAULT 0,
    changes     bigint NOT NULL DEFAULT 0, -- statements that deleted messages, ever
    erased      bigint NOT NULL DEFAULT 0, -- messages erased, ever
    deleted_id  bigint NOT NULL DEFAULT 0, -- the highest id of a message that was deleted
    erasing_key bytea NOT NULL,            -- of the hashes in erased
    main_receiver text COLLATE "C"         -- that of most of the messages that were counted first
) WITH (fillfactor = 10);
INSERT INTO mailslot.totals (erasing_key)
VALUES (sha256((gen_random_uuid()::text || gen_random_uuid()::text)::bytea));

-- Of the ids of parties and classes, of which no two are the same: counts have them.
CREATE SEQUENCE mailslot.groups AS bigint;

-- The senders and the receivers. A number that is both has two rows.
CREATE TABLE mailslot.parties (
    id          bigint PRIMARY KEY DEFAULT nextval('mailslot.groups'),
    is_receiver boolean NOT NULL,
    msisdn      text COLLATE "C" NOT NULL,
    n           bigint NOT NULL,
    is_heavy    boolean NOT NULL DEFAULT false, -- has counts by time of its own; the main receiver never
    UNIQUE (msisdn, is_receiver)
) WITH (fillfactor = 70);
CREATE INDEX parties_by_n ON mailslot.parties (is_receiver, n DESC, msisdn);
CREATE INDEX parties_heavy ON mailslot.parties (msisdn, is_receiver) WHERE is_heavy;

-- The pairs of source and kind. One is entered before its first message is stored, and stays (classes.rs).
-- The first one has no counts by time: they are those of all messages without those of the other classes.
CREATE TABLE mailslot.classes (
    id     bigint PRIMARY KEY DEFAULT nextval('mailslot.groups'),
    source text COLLATE "C" NOT NULL,
    kind   text COLLATE "C" NOT NULL,
    n      bigint NOT NULL DEFAULT 0,
    UNIQUE (source, kind)
) WITH (fillfactor = 10);
INSERT INTO mailslot.classes (source, kind) VALUES ('webhook', 'text');

-- How many messages there are in each second (level 1), minute, hour, day and 64 days (level 5) since
-- the year 1.
CREATE TABLE mailslot.counts (
    -- 0: all messages, -1: those to another receiver than the main one, so that an inbox with one receiver
    -- has no counts twice; otherwise those of a party or of a class.
    group_id bigint NOT NULL,
    level    smallint NOT NULL,
    bucket   bigint NOT NULL, -- (ts_s + 62135596800) / the seconds of the level
    n        bigint NOT NULL,
    PRIMARY KEY (group_id, level, bucket)
) WITH (fillfactor = 70);

-- Whoever counts or deletes locks the row of totals first, or here.
CREATE FUNCTION mailslot.uncount() RETURNS trigger LANGUAGE plpgsql SET search_path = mailslot AS $$
DECLARE
    up_to bigint;
BEGIN
    SELECT counted_id INTO up_to FROM totals FOR UPDATE;
    -- A count that would be zero goes: there is one for each second in which a message was sent.
    WITH less AS MATERIALIZED (
        SELECT group_id, level, (ts_s + 62135596800) / seconds AS bucket, count(*) AS n
        FROM (
            SELECT 0::bigint AS group_id, ts_s FROM deleted WHERE deleted.id <= up_to
            UNION ALL
            SELECT -1, ts_s FROM deleted, totals
            WHERE deleted.id <= up_to AND to_msisdn <> main_receiver
            UNION ALL
            SELECT parties.id, ts_s FROM deleted
            CROSS JOIN LATERAL (VALUES (false, from_msisdn), (true, to_msisdn))
                AS party (is_receiver, msisdn)
            JOIN parties USING (is_receiver, msisdn)
            WHERE deleted.id <= up_to AND is_heavy
            UNION ALL
            SELECT classes.id, ts_s FROM deleted JOIN classes USING (source, kind)
            WHERE deleted.id <= up_to AND classes.id > 1
        ) AS counted CROSS JOIN (
            VALUES (1::smallint, 1::bigint), (2, 60), (3, 3600), (4, 86400), (5, 5529600)
        ) AS levels (level, seconds)
        GROUP BY 1, 2, 3
    ), gone AS (
        DELETE FROM counts USING less
        WHERE (counts.group_id, counts.level, counts.bucket)
                = (less.group_id, less.level, less.bucket) AND counts.n = less.n)
    UPDATE counts SET n = counts.n - less.n FROM less
    WHERE (counts.group_id, counts.level, counts.bucket)
        = (less.group_id, less.level, less.bucket) AND counts.n <> less.n;
    UPDATE parties SET n = parties.n - less.n
    FROM (
        SELECT is_receiver, msisdn, count(*) AS n FROM deleted
        CROSS JOIN LATERAL (VALUES (false, from_msisdn), (true, to_msisdn))
            AS party (is_receiver, msisdn)
        WHERE deleted.id <= up_to GROUP BY 1, 2
    ) AS less
    WHERE (parties.is_receiver, parties.msisdn) = (less.is_receiver, less.msisdn);
    UPDATE classes SET n = classes.n - less.n
    FROM (
        SELECT source, kind, count(*) AS n FROM deleted WHERE deleted.id <= up_to GROUP BY 1, 2
    ) AS less
    WHERE (classes.source, classes.kind) = (less.source, less.kind);
    -- Both values are named, since the index by n begins with them.
    WITH gone AS (
            DELETE FROM parties WHERE is_receiver IN (false, true) AND n = 0
            RETURNING id, is_receiver
        ), their_counts AS (DELETE FROM counts WHERE group_id IN (SELECT id FROM gone))
    UPDATE totals SET senders = senders - (SELECT count(*) FROM gone WHERE NOT is_receiver),
        changes = changes + 1,
        messages = messages - (SELECT count(*) FROM deleted WHERE deleted.id <= up_to),
        deleted_id = greatest(deleted_id, (SELECT max(deleted.id) FROM deleted));
    RETURN NULL;
END $$;
CREATE TRIGGER messages_are_uncounted AFTER DELETE ON mailslot.messages
REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION mailslot.uncount();
