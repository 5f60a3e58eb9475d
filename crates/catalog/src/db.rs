//! The engine: opening, transactions, what its errors mean. All that is particular to SQLite is here.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::jobs::Rules;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _, Row as _, SqlSafeStr as _, Transaction};
use tokio::sync::watch;

use crate::{CatalogError, ErrorKind};

pub(crate) type Engine = sqlx::Sqlite;
pub(crate) type Conn = sqlx::SqliteConnection;
pub(crate) type Pool = sqlx::SqlitePool;
pub(crate) type Row = sqlx::sqlite::SqliteRow;
pub(crate) type Builder = sqlx::QueryBuilder<Engine>;

/// The steps of the schema: version, name, statements. A step that was released never changes.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first", include_str!("../migrations/0001_first.sql")),
    (2, "parked", include_str!("../migrations/0002_parked.sql")),
    (
        3,
        "receipts",
        include_str!("../migrations/0003_receipts.sql"),
    ),
];

/// How long a statement waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
const READERS: u32 = 4;
/// From this version on the log cannot be reset under a reader (sqlite.org/wal.html#walresetbug).
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// Where the catalog is and by which rules its jobs live.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; made where it does not exist.
    pub file: PathBuf,
    /// Leases, attempts, limits.
    pub rules: Rules,
}

impl Options {
    /// Returns the options for a file with the default rules.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            rules: Rules::default(),
        }
    }
}

/// The catalog. Cheap to clone; all clones share connections.
#[derive(Clone, Debug)]
pub struct Catalog {
    writer: Pool,
    readers: Pool,
    pub(crate) rules: Rules,
    changes: Arc<watch::Sender<u64>>,
}

/// A writing transaction; dropped without [`Tx::commit`] it never happened.
pub(crate) struct Tx {
    inner: Transaction<'static, Engine>,
    action: &'static str,
    changes: Arc<watch::Sender<u64>>,
}

impl Deref for Tx {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.inner
    }
}

impl Tx {
    /// Makes everything in it durable, then tells whoever waits for changes.
    pub(crate) async fn commit(self) -> Result<(), CatalogError> {
        let changes = Arc::clone(&self.changes);
        self.commit_quietly().await?;
        changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Makes everything in it durable and wakes nobody: for what happens all the time and that nobody waits for.
    pub(crate) async fn commit_quietly(self) -> Result<(), CatalogError> {
        self.inner.commit().await.map_err(db(self.action))
    }
}

impl Catalog {
    /// Opens the database, brings its schema up to date and checks it.
    ///
    /// # Errors
    /// [`CatalogError::NewerSchema`] where a newer program wrote it, [`CatalogError::Damaged`] where the check fails.
    pub async fn open(options: &Options) -> Result<Self, CatalogError> {
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .before_acquire(|conn, _| Box::pin(async { Ok(is_clean(conn)) }))
            .connect_with(connect_options(&options.file))
            .await
            .map_err(db("open the catalog"))?;
        check_engine(&writer).await?;
        check_file(&writer).await?;
        migrate(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .before_acquire(|conn, _| Box::pin(async { Ok(is_clean(conn)) }))
            .connect_with(
                connect_options(&options.file)
                    .read_only(true)
                    .create_if_missing(false),
            )
            .await
            .map_err(db("open the catalog for reading"))?;
        let (changes, _) = watch::channel(0);
        Ok(Self {
            writer,
            readers,
            rules: options.rules,
            changes: Arc::new(changes),
        })
    }

    /// Returns the rules its jobs live by.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns a number that grows when this process commits something others may wait for (not a mere sign of life):
    /// wait on it instead of asking again and again. What another process commits is not seen here.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Closes all connections; pending writes are finished first.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Writes a consistent copy of the database to a new file while work goes on.
    pub async fn copy_to(&self, file: &Path) -> Result<(), CatalogError> {
        let path = file
            .to_str()
            .ok_or_else(|| CatalogError::refused("the copy's path is not valid Unicode"))?;
        sqlx::query("VACUUM INTO $1")
            .bind(path)
            .execute(&self.readers)
            .await
            .map_err(db("copy the catalog"))?;
        Ok(())
    }

    pub(crate) async fn write(&self, action: &'static str) -> Result<Tx, CatalogError> {
        // IMMEDIATE: what is read inside is what is written over.
        let inner = self
            .writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(db(action))?;
        Ok(Tx {
            inner,
            action,
            changes: Arc::clone(&self.changes),
        })
    }

    pub(crate) fn readers(&self) -> &Pool {
        &self.readers
    }

    /// A reading transaction: everything in it is of one moment.
    pub(crate) async fn snapshot(
        &self,
        action: &'static str,
    ) -> Result<Transaction<'static, Engine>, CatalogError> {
        self.readers.begin().await.map_err(db(action))
    }
}

/// Returns what turns an error of the engine into ours.
pub(crate) fn db(action: &'static str) -> impl Fn(sqlx::Error) -> CatalogError {
    move |source| CatalogError::Db { action, source }
}

/// Tells whether a statement failed because a row of that key is there already.
pub(crate) fn is_duplicate(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|e| e.is_unique_violation())
}

/// Says what an error of the engine means. SQLite's primary code is the low byte of its extended one.
pub(crate) fn kind_of(error: &sqlx::Error) -> ErrorKind {
    if let Some(error) = error.as_database_error() {
        let code = error
            .code()
            .and_then(|code| code.parse::<u32>().ok())
            .unwrap_or(0);
        return match code & 0xFF {
            5 | 6 => ErrorKind::Retry,
            13 => ErrorKind::Full,
            11 | 26 => ErrorKind::Corrupt,
            // An I/O error may have been a failed fsync: what later writes report is not to be believed.
            7 | 8 | 10 | 14 => ErrorKind::Fatal,
            19 => ErrorKind::Conflict,
            _ => ErrorKind::Bug,
        };
    }
    if matches!(error, sqlx::Error::PoolTimedOut) {
        ErrorKind::Retry
    } else if matches!(error, sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed) {
        ErrorKind::Fatal
    } else {
        ErrorKind::Bug
    }
}

/// Tells whether a connection may be used again. After a full disk SQLite has ended the transaction by itself, the roll
/// back that follows fails, and sqlx believes for ever after that it is inside: such a connection is closed.
fn is_clean(conn: &Conn) -> bool {
    !conn.is_in_transaction()
}

fn connect_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("mmap_size", "0")
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

async fn check_engine(pool: &Pool) -> Result<(), CatalogError> {
    let action = "ask for the version of SQLite";
    let row = sqlx::query("SELECT sqlite_version()")
        .fetch_one(pool)
        .await
        .map_err(db(action))?;
    let text: String = row.try_get(0).map_err(db(action))?;
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let found = (next(), next(), next());
    if found < OLDEST_SQLITE {
        return Err(CatalogError::refused(format!(
            "SQLite {text} may lose committed data; 3.51.3 or newer is needed"
        )));
    }
    Ok(())
}

async fn check_file(pool: &Pool) -> Result<(), CatalogError> {
    let action = "check the catalog";
    let rows = sqlx::query("PRAGMA quick_check(5)")
        .fetch_all(pool)
        .await
        .map_err(db(action))?;
    let mut report = Vec::new();
    for row in rows {
        report.push(row.try_get::<String, _>(0).map_err(db(action))?);
    }
    if report.iter().map(String::as_str).eq(["ok"]) {
        return Ok(());
    }
    Err(CatalogError::Damaged {
        report: report.join("; "),
    })
}

async fn migrate(pool: &Pool) -> Result<(), CatalogError> {
    let known = MIGRATIONS
        .iter()
        .map(|(version, _, _)| *version)
        .max()
        .unwrap_or(0);
    let steps = MIGRATIONS.iter().map(|(version, name, statements)| {
        let statements = statements.into_sql_str();
        Migration::new(
            *version,
            (*name).into(),
            MigrationType::Simple,
            statements,
            false,
        )
    });
    let migrator = Migrator::with_migrations(steps.collect());
    migrator.run(pool).await.map_err(|error| {
        if let MigrateError::VersionMissing(found) = error {
            return CatalogError::NewerSchema { known, found };
        }
        CatalogError::Db {
            action: "bring the catalog's schema up to date",
            source: sqlx::Error::Migrate(Box::new(error)),
        }
    })
}
