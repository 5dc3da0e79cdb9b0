//! Full-text search in a database file.

use crate::{
    BoxError,
    corpus::{Corpus, Passage},
    question::{Failure, Found, Question, TOP},
    text::words,
};
use rusqlite::{Connection, OpenFlags};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::Semaphore, task};

/// Connections, and so blocking threads in use, at most. Each may cache 2 MB.
///
/// An adapter should have no more calls in flight: they would wait in here, where nobody sees it.
const MAX_CONNECTIONS: usize = 4;

/// Words of a question that are searched for. More would cost time and add little.
const MAX_WORDS: usize = 32;

/// Part of the fingerprint, so that a changed layout builds a new database.
const LAYOUT: &str = "1";

const SCHEMA: &str = "
    CREATE TABLE corpus (fingerprint TEXT NOT NULL);
    CREATE VIRTUAL TABLE passages USING fts5(text, source UNINDEXED, tokenize = 'porter unicode61');
";

/// A database to search. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Sql {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
}

/// Connections that nobody uses right now; the semaphore bounds how many there are.
#[derive(Debug)]
struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Sql {
    /// Opens the database in `folder`, after building it if it is absent or
    /// holds another corpus. Blocks.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be created or written.
    pub fn open(folder: &Path, corpus: &Corpus) -> Result<Self, BoxError> {
        let path = folder.join("passages.db");
        let fingerprint = format!("{LAYOUT}-{}", corpus.fingerprint());
        // A database that cannot be read is as good as none.
        if !stored_fingerprint(&path).is_ok_and(|stored| stored == fingerprint) {
            fs::create_dir_all(folder)?;
            replace(&path, corpus, &fingerprint)?;
        }
        let pool = Pool {
            idle: Mutex::new(vec![open_read_only(&path)?]),
            path,
        };
        Ok(Self {
            pool: Arc::new(pool),
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        })
    }

    /// Finds passages with the words of the question.
    ///
    /// # Errors
    ///
    /// Fails when the database cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a search that has begun to end by itself.
    pub async fn ask(self, question: Question) -> Result<Vec<Found>, Failure> {
        let Some(query) = match_any(question.as_str()) else {
            return Ok(Vec::new());
        };
        let permit = self.permits.acquire_owned().await;
        let permit = permit.map_err(Failure::new)?;
        let search = task::spawn_blocking(move || {
            // SQLite works on even if the caller has gone, and until it is done
            // the connection counts as in use.
            let _permit = permit;
            self.pool
                .with_connection(|connection| search(connection, &query))
        });
        match search.await {
            Ok(found) => found.map_err(Failure::new),
            Err(error) => Err(Failure::new(error)),
        }
    }
}

impl Pool {
    fn with_connection<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle().pop();
        let connection = connection.map_or_else(|| open_read_only(&self.path), Ok)?;
        let result = work(&connection)?;
        // After an error the connection is closed instead: the next one may fare better.
        idle().push(connection);
        Ok(result)
    }
}

/// The FTS5 expression that matches any word of the question, or `None` without words.
///
/// Quoted, a word is never an operator, and [`words`] leaves no quotes in it.
fn match_any(question: &str) -> Option<String> {
    let mut seen = BTreeSet::new();
    let quoted: Vec<_> = words(question)
        .filter(|word| seen.insert(word.clone()))
        .take(MAX_WORDS)
        .map(|word| format!("\"{word}\""))
        .collect();
    (!quoted.is_empty()).then(|| quoted.join(" OR "))
}

fn search(connection: &Connection, query: &str) -> rusqlite::Result<Vec<Found>> {
    connection
        // SQLite ranks the best match lowest.
        .prepare("SELECT text, source, -rank FROM passages(?1) ORDER BY rank LIMIT ?2")?
        .query_map((query, TOP as i64), |row| {
            Ok(Found {
                passage: Passage {
                    text: row.get(0)?,
                    source: row.get(1)?,
                },
                score: row.get(2)?,
            })
        })?
        .collect()
}

fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
}

fn stored_fingerprint(path: &Path) -> rusqlite::Result<String> {
    open_read_only(path)?.query_one("SELECT fingerprint FROM corpus", (), |row| row.get(0))
}

/// Builds next to the old database and renames, so that no one sees half of one.
fn replace(path: &Path, corpus: &Corpus, fingerprint: &str) -> Result<(), BoxError> {
    let temporary = path.with_extension(format!("{}.tmp", process::id()));
    let built = remove_if_present(&temporary)
        .map_err(BoxError::from)
        .and_then(|()| Ok(build(&temporary, corpus, fingerprint)?))
        .and_then(|()| Ok(fs::rename(&temporary, path)?));
    if built.is_err() {
        // The error that led here says more than one from tidying up.
        _ = remove_if_present(&temporary);
    }
    built
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn build(path: &Path, corpus: &Corpus, fingerprint: &str) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute("INSERT INTO corpus VALUES (?1)", [fingerprint])?;
    let mut insert = transaction.prepare("INSERT INTO passages VALUES (?1, ?2)")?;
    for passage in corpus.passages() {
        insert.execute([&passage.text, &passage.source])?;
    }
    drop(insert);
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, time::Duration};
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn question_waits_while_all_connections_are_in_use() {
        let folder = env::temp_dir().join(format!("adapter-gateway-{}", process::id()));
        let sql = Sql::open(&folder, &Corpus::from_iter([])).unwrap();
        let in_use = sql.permits.acquire_many(MAX_CONNECTIONS as u32).await;
        let day = Duration::from_secs(24 * 60 * 60);
        let ask = || sql.clone().ask("why?".into());
        assert!(timeout(day, ask()).await.is_err());
        drop(in_use);
        assert_eq!(ask().await, Ok(Vec::new()));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn questions_become_quoted_words() {
        let query = match_any("Drain delay: NEAR(\"drain\", 3) AND *").unwrap();
        assert_eq!(query, r#""drain" OR "delay" OR "near" OR "3" OR "and""#);
        assert_eq!(match_any("?! -- \"\" ()"), None);
    }

    #[test]
    fn long_questions_are_searched_by_their_first_words() {
        let question: String = (0..2_000).map(|n| format!("{n} ")).collect();
        let query = match_any(&question).unwrap();
        assert_eq!(query.split(" OR ").count(), MAX_WORDS);
    }
}
