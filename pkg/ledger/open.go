package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// SQL is a ledger in a database. It is safe for concurrent use.
type SQL struct {
	dialect
	// write has the one connection that writes to SQLite; read has others, which see the last committed state meanwhile. For
	// PostgreSQL they are the same.
	write, read *sql.DB
	// name says in messages which ledger it is, without a password.
	name string
}

var _ Store = (*SQL)(nil)

// Open opens the ledger at the DSN, creates it where there is none and brings it up to date. A DSN is a path or sqlite:///path for a file
// of SQLite, or postgres://user@host/database.
//
// A file has to be on a local disk: SQLite locks and shares memory among those who use it, which network filesystems do not do
// reliably. And the ledger is only as durable as the file's disk, or the server's synchronous_commit.
func Open(ctx context.Context, dsn string) (*SQL, error) { return open(ctx, dsn, false) }

// OpenReadOnly opens a ledger that exists, to read. It works beside a process that writes. A program that is older or newer than the
// ledger is refused.
func OpenReadOnly(ctx context.Context, dsn string) (*SQL, error) { return open(ctx, dsn, true) }

func open(ctx context.Context, dsn string, readOnly bool) (*SQL, error) {
	var db *SQL
	var err error
	scheme, path, found := strings.Cut(dsn, "://")
	switch {
	case found && (scheme == "postgres" || scheme == "postgresql"):
		db, err = openPostgres(dsn, readOnly)
	case found && scheme != "sqlite":
		return nil, fmt.Errorf("ledger: a DSN begins with sqlite:// or postgres://, or is a path; found %s://", scheme)
	case found && !filepath.IsAbs(path):
		return nil, fmt.Errorf("ledger %s: want an absolute path, as in sqlite:///var/lib/weft/ledger.db", dsn)
	case found:
		db, err = openSQLite(path, readOnly)
	default:
		db, err = openSQLite(dsn, readOnly)
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx, readOnly); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", db.name, err), db.Close())
	}
	return db, nil
}

func openSQLite(path string, readOnly bool) (*SQL, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") || strings.HasPrefix(path, "file:") {
		return nil, fmt.Errorf("ledger %q: want the path of a file, or a DSN postgres://user@host/database", path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("ledger %s is a directory: want a file, such as %s", path, filepath.Join(path, "ledger.db"))
	}
	// SQLite says "unable to open database file" whatever the reason; the system is more precise.
	flags := os.O_RDWR | os.O_CREATE
	if readOnly {
		flags = os.O_RDONLY
	}
	file, err := os.OpenFile(path, flags, 0o640)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}

	connect := func(parameters url.Values) (*sql.DB, error) {
		parameters.Add("_pragma", "busy_timeout(10000)")
		u := url.URL{Scheme: "file", Path: path, RawQuery: parameters.Encode()}
		return sql.Open("sqlite", u.String())
	}
	read, err := connect(url.Values{"mode": {"ro"}})
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	db := &SQL{dialect: sqliteDialect, read: read, write: read, name: path}
	if readOnly {
		return db, nil
	}
	// FULL, because NORMAL may lose the last commits when the power fails.
	write, err := connect(url.Values{"_txlock": {"immediate"}, "_pragma": {"journal_mode(WAL)", "synchronous(FULL)"}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", path, err), read.Close())
	}
	write.SetMaxOpenConns(1)
	db.write = write
	return db, nil
}

func openPostgres(dsn string, readOnly bool) (*SQL, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if _, ok := config.RuntimeParams["application_name"]; !ok {
		config.RuntimeParams["application_name"] = "weft-ledger"
	}
	if readOnly {
		config.RuntimeParams["default_transaction_read_only"] = "on"
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(16)
	name := fmt.Sprintf("postgres://%s:%d/%s", config.Host, config.Port, config.Database)
	return &SQL{dialect: postgresDialect, read: db, write: db, name: name}, nil
}

// migrate brings the tables up to date, or fails where that is not to be done.
func (db *SQL) migrate(ctx context.Context, readOnly bool) error {
	files, err := db.files()
	if err != nil {
		return err
	}
	options := []goose.ProviderOption{goose.WithTableName("weft_ledger_version"), goose.WithDisableGlobalRegistry(true)}
	if db.goose == goose.DialectPostgres && !readOnly {
		// Replicas start at the same time.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
		if err != nil {
			return err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	// The provider is not closed: that would close the database.
	provider, err := goose.NewProvider(db.goose, db.write, files, options...)
	if err != nil {
		return err
	}
	if !readOnly {
		// Another process may have done it at the same time: then what this one could not do is done.
		if _, err := provider.Up(ctx); err != nil {
			if pending, again := provider.HasPending(ctx); again != nil || pending {
				return err
			}
		}
	}
	found, known, err := provider.GetVersions(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("no ledger is there: %w", err)
	case found > known:
		return fmt.Errorf("%w: it has version %d of the tables, this program knows %d", ErrNewer, found, known)
	case found < known:
		return fmt.Errorf("it has version %d of the tables, this program reads %d: whoever writes it has to be updated first", found, known)
	}
	return nil
}

// Close closes all connections.
func (db *SQL) Close() error {
	err := db.read.Close()
	if db.write != db.read {
		err = errors.Join(db.write.Close(), err)
	}
	return err
}
