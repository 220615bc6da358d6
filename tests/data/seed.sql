-- A database of the design that mailslot comes from, as its FastAPI implementations leave it.
CREATE TABLE messages (message_id VARCHAR NOT NULL, from_msisdn VARCHAR NOT NULL, to_msisdn VARCHAR NOT NULL,
    ts VARCHAR NOT NULL, text TEXT, created_at VARCHAR NOT NULL, PRIMARY KEY (message_id));
CREATE INDEX ix_messages_ts ON messages (ts);
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 149)
INSERT INTO messages
SELECT 'm' || n, '+' || (1 + n % 4), '+' || (7 + n % 2),
    printf('2025-01-%02dT10:00:0%d%sZ', 1 + n % 28, n % 10, iif(n % 3 = 0, '.5', '')),
    iif(n % 9 = 0, NULL, iif(n % 3 = 1, 'Grüße', iif(n % 3 = 2, 'order 48213', 'Hello'))), 'then'
FROM number;
