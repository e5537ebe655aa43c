package ledger

import (
	"embed"
	"io/fs"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// dialect is all in which the databases differ, besides how they are opened and the types of their columns (migrations/).
type dialect struct {
	folder string // of migrations
	goose  goose.Dialect
	// forUpdate locks a row that is read. In SQLite the transaction has the only lock already.
	forUpdate string
	// least and greatest are the functions of two numbers.
	least, greatest string
	// numbered says that parameters are $1, $2 instead of ?.
	numbered bool
}

var (
	sqliteDialect   = dialect{folder: "sqlite", goose: goose.DialectSQLite3, least: "min", greatest: "max"}
	postgresDialect = dialect{
		folder: "postgres", goose: goose.DialectPostgres, forUpdate: " FOR UPDATE", least: "least", greatest: "greatest", numbered: true,
	}
)

// files are the migrations.
func (d *dialect) files() (fs.FS, error) { return fs.Sub(migrations, "migrations/"+d.folder) }

// bind writes the parameters of a query, ? each, as the database wants them. No query has a question mark in a string.
func (d *dialect) bind(query string) string {
	if !d.numbered {
		return query
	}
	var b strings.Builder
	b.Grow(len(query) + 64)
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

// tuples are n lists of width parameters, for VALUES.
func tuples(n, width int) string {
	one := "(" + strings.Repeat("?,", width-1) + "?)"
	return strings.Repeat(one+",", n-1) + one
}

// chunk is how many of n rows go into the next statement: powers of two, so that the statements are few and stay prepared.
func chunk(n int) int {
	size := 128
	for size > n {
		size /= 2
	}
	return size
}
