//! The SQL: every statement that reads or writes the tables of open.rs. Callers hold the transaction.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{Change, KeyValue, Revision};

type Sql<T> = rusqlite::Result<T>;

/// No key is greater: keys are UTF-8.
const END: &[u8] = &[0xff];

/// What `keys` says of a key: `created` 0 for one that was deleted within the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub revision: Revision,
    pub created: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub compacted: Revision,
    pub ceiling: Revision,
    pub clean: bool,
    pub volatile_since: Revision,
}

pub(super) fn meta(db: &Connection) -> Sql<Meta> {
    db.prepare_cached("SELECT compacted, ceiling, clean, volatile_since FROM meta")?.query_row([], |row| {
        Ok(Meta {
            compacted: revision(row, 0)?,
            ceiling: revision(row, 1)?,
            clean: row.get(2)?,
            volatile_since: revision(row, 3)?,
        })
    })
}

pub(super) fn set_meta(db: &Connection, meta: Meta) -> Sql<()> {
    db.prepare_cached("UPDATE meta SET compacted = ?1, ceiling = ?2, clean = ?3, volatile_since = ?4")?
        .execute(params![meta.compacted as i64, meta.ceiling as i64, meta.clean, meta.volatile_since as i64])?;
    Ok(())
}

/// The newest revision in the tables.
pub(super) fn newest(db: &Connection) -> Sql<Revision> {
    let newest: Option<i64> = db.query_row("SELECT max(revision) FROM history", [], |row| row.get(0))?;
    Ok(newest.unwrap_or(0) as Revision)
}

pub(super) fn head(db: &Connection, key: &str) -> Sql<Option<Head>> {
    db.prepare_cached("SELECT revision, created FROM keys WHERE key = ?1")?
        .query_row([key.as_bytes()], |row| Ok(Head { revision: revision(row, 0)?, created: revision(row, 1)? }))
        .optional()
}

/// The newest value of a key.
pub(super) fn get(db: &Connection, key: &str) -> Sql<Option<KeyValue>> {
    db.prepare_cached(
        "SELECT k.created, k.revision, h.value FROM keys k JOIN history h ON h.revision = k.revision
         WHERE k.key = ?1 AND k.created > 0",
    )?
    .query_row([key.as_bytes()], |row| {
        Ok(KeyValue { key: key.into(), created: revision(row, 0)?, modified: revision(row, 1)?, value: blob(row, 2)? })
    })
    .optional()
}

/// Writes `value`, or a deletion, at `at` over `head`. `created` is that of the life this belongs to.
pub(super) fn write(
    db: &Connection,
    key: &str,
    at: Revision,
    head: Option<Head>,
    created: Revision,
    value: Option<&[u8]>,
) -> Sql<()> {
    db.prepare_cached("INSERT INTO history (revision, key, created, previous, value) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            at as i64,
            key.as_bytes(),
            created as i64,
            head.map_or(0, |head| head.revision as i64),
            value
        ])?;
    let statement = match head {
        None => "INSERT INTO keys (key, revision, created) VALUES (?1, ?2, ?3)",
        Some(_) => "UPDATE keys SET revision = ?2, created = ?3 WHERE key = ?1",
    };
    let alive = if value.is_some() { created } else { 0 };
    db.prepare_cached(statement)?.execute(params![key.as_bytes(), at as i64, alive as i64])?;
    Ok(())
}

/// Changes in `(after, until]`, oldest first.
pub(super) fn changes(db: &Connection, after: Revision, until: Revision, limit: usize) -> Sql<Vec<Change>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(
        "SELECT h.revision, h.key, h.created, h.value, h.previous, p.value
         FROM history h LEFT JOIN history p ON p.revision = h.previous AND h.created <> h.revision
         WHERE h.revision > ?1 AND h.revision <= ?2 ORDER BY h.revision LIMIT ?3",
    )?;
    statement.query_map(params![after as i64, until as i64, limit], change)?.collect()
}

fn change(row: &Row<'_>) -> Sql<Change> {
    let previous = match row.get_ref(5)?.as_blob_or_null()? {
        Some(value) => Some((revision(row, 4)?, Bytes::copy_from_slice(value))),
        None => None,
    };
    Ok(Change {
        revision: revision(row, 0)?,
        key: key(row, 1)?,
        created: revision(row, 2)?,
        value: row.get_ref(3)?.as_blob_or_null()?.map(Bytes::copy_from_slice),
        previous,
    })
}

/// A page of the keys from `start` with `prefix` as of `at`, and how many follow.
pub(super) fn range(
    db: &Connection,
    prefix: &str,
    at: Revision,
    start: &str,
    limit: usize,
) -> Sql<(Vec<KeyValue>, u64)> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let end = end_of(prefix);
    let mut items = Vec::new();
    let mut statement = db.prepare_cached(
        "SELECT k.key, k.revision, k.created, h.value FROM keys k JOIN history h ON h.revision = k.revision
         WHERE k.key >= ?1 AND k.key < ?2 ORDER BY k.key",
    )?;
    let mut rows = statement.query(params![prefix.max(start).as_bytes(), end])?;
    while items.len() < limit {
        let Some(row) = rows.next()? else { return Ok((items, 0)) };
        let (modified, created) = (revision(row, 1)?, revision(row, 2)?);
        if modified > at {
            if let Some((modified, created)) = older(db, modified, at)? {
                items.extend(
                    value_at(db, modified)?
                        .map(|value| (value, created, modified))
                        .map(|(value, created, modified)| {
                            key(row, 0).map(|key| KeyValue { key, value, created, modified })
                        })
                        .transpose()?,
                );
            }
        } else if created > 0 {
            items.push(KeyValue { key: key(row, 0)?, value: blob(row, 3)?, created, modified });
        }
    }
    let Some(last) = items.last().map(|item| item.key.clone()) else { return Ok((items, 0)) };
    drop(rows);
    let bounds = params![last.as_bytes(), end, at as i64];
    let mut remaining: u64 = db
        .prepare_cached("SELECT count(*) FROM keys WHERE key > ?1 AND key < ?2 AND revision <= ?3 AND created > 0")?
        .query_row(bounds, |row| revision(row, 0))?;
    let mut later = db.prepare_cached("SELECT revision FROM keys WHERE key > ?1 AND key < ?2 AND revision > ?3")?;
    let mut rows = later.query(bounds)?;
    while let Some(row) = rows.next()? {
        remaining += u64::from(older(db, revision(row, 0)?, at)?.is_some());
    }
    Ok((items, remaining))
}

/// Follows a key's writes back from `from` to the one that held at `at`: its revision and the life's creation.
fn older(db: &Connection, from: Revision, at: Revision) -> Sql<Option<(Revision, Revision)>> {
    let mut statement =
        db.prepare_cached("SELECT previous, created, value IS NULL FROM history WHERE revision = ?1")?;
    let mut revision_ = from;
    loop {
        let row = statement
            .query_row([revision_ as i64], |row| Ok((revision(row, 0)?, revision(row, 1)?, row.get::<_, bool>(2)?)))
            .optional()?;
        match row {
            // Compacted or never there: a deletion, or nothing.
            None => return Ok(None),
            Some((_, created, deleted)) if revision_ <= at => {
                return Ok((!deleted).then_some((revision_, created)));
            }
            Some((previous, ..)) => revision_ = previous,
        }
    }
}

fn value_at(db: &Connection, at: Revision) -> Sql<Option<Bytes>> {
    db.prepare_cached("SELECT value FROM history WHERE revision = ?1")?
        .query_row([at as i64], |row| blob(row, 0))
        .optional()
}

/// Forgets what the writes in `(from, until]` replaced, at most `limit` of them; returns how far it came.
pub(super) fn compact(db: &Connection, from: Revision, until: Revision, limit: usize) -> Sql<Revision> {
    let mut select = db.prepare_cached(
        "SELECT revision, previous, value IS NULL, key FROM history
         WHERE revision > ?1 AND revision <= ?2 ORDER BY revision LIMIT ?3",
    )?;
    let rows: Vec<(Revision, Revision, Option<Vec<u8>>)> = select
        .query_map(params![from as i64, until as i64, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            let deleted = if row.get(2)? { Some(row.get(3)?) } else { None };
            Ok((revision(row, 0)?, revision(row, 1)?, deleted))
        })?
        .collect::<Sql<_>>()?;
    let mut forget = db.prepare_cached("DELETE FROM history WHERE revision = ?1")?;
    let mut forget_key = db.prepare_cached("DELETE FROM keys WHERE key = ?1 AND revision = ?2")?;
    for (at, previous, deleted) in &rows {
        if *previous > 0 {
            forget.execute([*previous as i64])?;
        }
        if let Some(key) = deleted {
            forget.execute([*at as i64])?;
            forget_key.execute(params![key, *at as i64])?;
        }
    }
    Ok(match rows.last() {
        Some((at, ..)) if rows.len() == limit => *at,
        _ => until,
    })
}

/// Pages of the file, and how many of them hold nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pages: u64,
    pub free: u64,
}

impl Size {
    /// Free pages are reused, so a steady load needs none given back: only what a burst has left behind.
    pub fn wasteful(self) -> bool {
        self.pages > 4096 && self.free > self.pages / 2
    }

    pub fn roomy(self) -> bool {
        self.pages > 4096 && self.free > self.pages / 4
    }
}

pub(super) fn size(db: &Connection) -> Sql<Size> {
    let pages = db.pragma_query_value(None, "page_count", |row| revision(row, 0))?;
    let free = db.pragma_query_value(None, "freelist_count", |row| revision(row, 0))?;
    Ok(Size { pages, free })
}

/// What an integrity check finds, and where the tables contradict each other.
pub(super) fn problems(db: &Connection) -> Sql<Vec<String>> {
    let mut found: Vec<String> =
        db.prepare("PRAGMA integrity_check")?.query_map([], |row| row.get(0))?.collect::<Sql<_>>()?;
    found.retain(|line| line != "ok");
    let contradictions = [
        (
            "a key without its newest write",
            "SELECT k.revision FROM keys k LEFT JOIN history h ON h.revision = k.revision
          WHERE h.key IS NOT k.key OR (k.created > 0) <> (h.value IS NOT NULL)",
        ),
        (
            "a newest write without its key",
            "SELECT h.revision FROM history h LEFT JOIN keys k ON k.key = h.key
          WHERE h.revision > ifnull(k.revision, 0)",
        ),
        (
            "a write without the one before",
            "SELECT h.revision FROM history h LEFT JOIN history p ON p.revision = h.previous
          WHERE h.revision > (SELECT compacted FROM meta) AND h.created <> h.revision AND p.value IS NULL",
        ),
        (
            "a replaced value outside the window",
            "SELECT h.revision FROM history h JOIN keys k ON k.key = h.key
          WHERE h.revision < k.revision AND h.revision NOT IN
          (SELECT previous FROM history WHERE revision > (SELECT compacted FROM meta))",
        ),
    ];
    for (what, query) in contradictions {
        if let Some(at) = db.query_row(query, [], |row| revision(row, 0)).optional()? {
            found.push(format!("{what}, at revision {at}"));
        }
    }
    Ok(found)
}

/// Moves pages from the file's end into free ones, at most `pages`.
pub(super) fn shrink(db: &Connection, pages: u32) -> Sql<()> {
    // One row a page: it stops where one stops stepping.
    let mut statement = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Follows a change of what is volatile: moves keys to where they belong now. Their history goes, so everything older
/// than `newest` is compacted. Callers hold a transaction.
pub(super) fn settle(db: &Connection, newest: Revision, prefixes: &[String]) -> Sql<bool> {
    let is_volatile = |key: &[u8]| prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
    let mut astray = false;
    for row in db.prepare("SELECT key FROM volatile")?.query_map([], |row| row.get::<_, Vec<u8>>(0))? {
        astray |= !is_volatile(&row?);
    }
    for prefix in prefixes {
        astray |= db
            .prepare("SELECT 1 FROM keys WHERE key >= ?1 AND key < ?2 AND created > 0")?
            .exists(params![prefix.as_bytes(), end_of(prefix)])?;
    }
    if !astray {
        return Ok(false);
    }
    compact(db, meta(db)?.compacted, newest, usize::MAX)?;
    set_meta(db, Meta { compacted: newest, ceiling: newest, clean: true, volatile_since: newest })?;
    forget_volatile_log(db)?;
    for prefix in prefixes {
        let bounds = params![prefix.as_bytes(), end_of(prefix)];
        db.execute(
            "INSERT OR REPLACE INTO volatile SELECT k.key, k.created, k.revision, h.value
             FROM keys k JOIN history h ON h.revision = k.revision WHERE k.key >= ?1 AND k.key < ?2",
            bounds,
        )?;
        db.execute(
            "DELETE FROM history WHERE revision IN (SELECT revision FROM keys WHERE key >= ?1 AND key < ?2)",
            bounds,
        )?;
        db.execute("DELETE FROM keys WHERE key >= ?1 AND key < ?2", bounds)?;
    }
    for item in volatile(db)? {
        if !is_volatile(item.key.as_bytes()) {
            write(db, &item.key, item.modified, None, item.created, Some(&item.value))?;
            set_volatile(db, &item.key, None)?;
        }
    }
    Ok(true)
}

pub(super) fn volatile(db: &Connection) -> Sql<Vec<KeyValue>> {
    db.prepare("SELECT key, created, modified, value FROM volatile")?
        .query_map([], |row| {
            Ok(KeyValue {
                key: key(row, 0)?,
                created: revision(row, 1)?,
                modified: revision(row, 2)?,
                value: blob(row, 3)?,
            })
        })?
        .collect()
}

pub(super) fn set_volatile(db: &Connection, key: &str, item: Option<&super::volatile::Entry>) -> Sql<()> {
    match item {
        Some(item) => db
            .prepare_cached("INSERT OR REPLACE INTO volatile (key, created, modified, value) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![key.as_bytes(), item.created as i64, item.modified as i64, &item.value[..]])?,
        None => db.prepare_cached("DELETE FROM volatile WHERE key = ?1")?.execute([key.as_bytes()])?,
    };
    Ok(())
}

pub(super) fn volatile_log(db: &Connection) -> Sql<Vec<Change>> {
    db.prepare("SELECT revision, key, created, value, previous, previous_value FROM volatile_log ORDER BY revision")?
        .query_map([], change)?
        .collect()
}

pub(super) fn log_volatile(db: &Connection, change: &Change) -> Sql<()> {
    let previous = change.previous.as_ref();
    db.prepare_cached("INSERT INTO volatile_log VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        change.revision as i64,
        change.key.as_bytes(),
        change.created as i64,
        change.value.as_deref(),
        previous.map_or(0, |(revision, _)| *revision as i64),
        previous.map(|(_, value)| &value[..]),
    ])?;
    Ok(())
}

pub(super) fn forget_volatile_log(db: &Connection) -> Sql<()> {
    db.execute("DELETE FROM volatile_log", []).map(|_| ())
}

/// The first byte string after all keys with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        // UTF-8 has no 0xff.
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    END.to_vec()
}

fn revision(row: &Row<'_>, column: usize) -> Sql<Revision> {
    row.get::<_, i64>(column).map(|revision| revision as Revision)
}

fn blob(row: &Row<'_>, column: usize) -> Sql<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}

fn key(row: &Row<'_>, column: usize) -> Sql<Arc<str>> {
    let bytes = row.get_ref(column)?.as_blob()?;
    std::str::from_utf8(bytes).map(Arc::from).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(error))
    })
}
