//! Databases as earlier programs left them are brought to the newest schema, or refused.

use std::path::Path;

use rusqlite::Connection;

use super::{check::recount, store::Store};
use crate::store::types::{Filter, Job, Order, Paging, Start};

/// Databases as earlier programs left them: of the seed, and of each version that is migrated.
const STORED: [(&str, i64); 4] = [
    (include_str!("../../../tests/data/seed.sql"), 150),
    (include_str!("../../../tests/data/version_5.sql"), 130),
    (include_str!("../../../tests/data/version_6.sql"), 130),
    (include_str!("../../../tests/data/version_7.sql"), 130),
];

/// Everything that the schema consists of. What RENAME leaves of a table's own SQL differs in
/// quotes and comments, so tables are compared by their columns.
fn schema_of(path: &Path) -> Vec<String> {
    let sql = "SELECT name || ' ' || sql FROM sqlite_schema
         WHERE type IN ('index', 'trigger') AND sql IS NOT NULL
         UNION ALL
         SELECT tables.name || ' ' || strict || wr || ' ' || columns.name || columns.type
             || columns.\"notnull\" || coalesce(dflt_value, '') || columns.pk
         FROM pragma_table_list AS tables JOIN pragma_table_info(tables.name) AS columns
         WHERE tables.name NOT GLOB 'sqlite_*'
         UNION ALL SELECT 'version ' || user_version FROM pragma_user_version
         ORDER BY 1";
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let schema = statement.query_map((), |row| row.get(0)).unwrap();
    schema.map(Result::unwrap).collect()
}

#[test]
fn stored_databases_of_every_version_are_brought_to_the_newest_schema_with_every_message() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new.db");
    Store::open(&new, 1, false).unwrap();
    for (number, (sql, messages)) in STORED.iter().enumerate() {
        let path = folder.path().join(format!("{number}.db"));
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let (store, mut writer) = Store::open(&path, 1, false).unwrap();
        assert_eq!(schema_of(&path), schema_of(&new));
        let mut reader = store.reader().unwrap();
        assert_eq!(reader.stats().unwrap().total_messages, *messages);
        let mut total = |q: &str| {
            let filter = Filter { q: Some(q.to_owned()), ..Filter::default() };
            let start = Start::Offset(0);
            let paging = Paging { limit: 100, start, order: Order::Ascending };
            let page = reader.list(&filter, &paging).unwrap();
            assert_eq!(i64::try_from(page.messages.len()), Ok(page.total));
            page.total
        };
        let found = ["grüsse", "order", "absent"].map(&mut total);
        assert!(found[0] >= 40 && found[1] >= 40 && found[2] == 0, "{found:?}");
        for _ in 0..2 {
            let recount = recount(&path).unwrap();
            assert!(recount.counts.iter().all(|count| count.counted == count.kept));
            assert_eq!(recount.wrong_senders, 0);
            writer.connection.execute("DELETE FROM messages WHERE message_id = 'm5'", ()).unwrap();
        }
        assert!(["grüsse", "order"].map(total).iter().sum::<i64>() < found[0] + found[1]);
        assert_eq!(writer.commit([Job::Probe].iter()), [Ok(vec![])]);
    }
}

#[test]
fn an_older_database_is_refused_with_what_to_do_and_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let old = Connection::open(&path).unwrap();
    let sql = "PRAGMA user_version = 4; PRAGMA application_id = 1297304660";
    old.execute_batch(&format!("CREATE TABLE messages (id INTEGER); {sql}")).unwrap();
    let refused = Store::open(&path, 1, false).unwrap_err();
    assert!(refused.contains("version 4") && refused.contains("export it"), "{refused}");
    let version: u32 = old.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap();
    assert_eq!(version, 4);
}
