-- The trigram index, by which a search finds its candidates. Where the extension cannot be had, a search
-- reads all texts: what it finds is the same. SEARCH_INDEX=off drops it (search.rs).
DO $$
DECLARE extension name;
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    SELECT nspname INTO extension
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
    WHERE extname = 'pg_trgm';
    EXECUTE format(
        'CREATE INDEX messages_by_text ON mailslot.messages
         USING gin (coalesce(folded, text) %I.gin_trgm_ops)', extension);
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'no trigram index: %', SQLERRM;
END $$;
