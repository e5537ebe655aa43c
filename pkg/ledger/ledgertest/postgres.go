// Package ledgertest starts a real PostgreSQL for tests, from Debian's package postgresql. It listens on a socket in a directory of
// its own, writes with fsync on as it would in production, and is gone after the test.
package ledgertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// RequireEnv is the variable that, when 1, makes a test fail instead of skip where there is no PostgreSQL.
const RequireEnv = "WEFT_REQUIRE_POSTGRES"

// Server is a PostgreSQL that a test has for itself.
type Server struct {
	t         testing.TB
	dir       string
	databases int
	program   string
	as        *syscall.Credential // nil for whoever runs the test
	process   *exec.Cmd           // nil while it is stopped
}

// Postgres starts a server that the end of the test stops. Without the package it skips the test, or fails it: see RequireEnv.
func Postgres(t testing.TB) *Server {
	t.Helper()
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(programs) == 0 {
		lacking(t, "PostgreSQL is not installed: apt-get install postgresql")
	}
	s := &Server{t: t, program: programs[len(programs)-1]}
	// Not below t.TempDir, which only root may enter.
	if s.dir, err = os.MkdirTemp("", "weft-postgres-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	if os.Getuid() == 0 {
		// The server refuses to run as root. Debian's package made this user.
		owner, err := user.Lookup("postgres")
		if err != nil {
			lacking(t, "PostgreSQL does not run as root: "+err.Error())
		}
		uid, err := strconv.ParseUint(owner.Uid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		gid, err := strconv.ParseUint(owner.Gid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	// --no-sync is about what initdb writes only.
	initdb := s.command(filepath.Join(filepath.Dir(s.program), "initdb"), "-D", filepath.Join(s.dir, "data"), "-U", "postgres", "-A", "trust",
		"-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if output, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, output)
	}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// lacking ends a test for which something is missing.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(RequireEnv) == "1" {
		t.Fatalf("%s is 1, and %s", RequireEnv, what)
	}
	t.Skip(what)
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	c := exec.Command(program, args...)
	c.Dir = s.dir
	c.Env = []string{"LC_ALL=C.UTF-8", "TZ=UTC"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGQUIT}
	return c
}

// Start starts the server after Stop, and returns when it accepts connections.
func (s *Server) Start() {
	s.t.Helper()
	c := s.command(s.program, "-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=on",
		"-c", "synchronous_commit=on")
	output, err := c.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	var log strings.Builder
	for lines := bufio.NewScanner(output); lines.Scan(); {
		fmt.Fprintln(&log, lines.Text())
		if strings.Contains(lines.Text(), "ready to accept connections") {
			s.process = c
			go io.Copy(io.Discard, output) //nolint:errcheck // Nobody reads the rest; it ends with the server.
			return
		}
	}
	s.t.Fatalf("PostgreSQL did not start: %v\n%s", c.Wait(), log.String())
}

// Stop stops the server and cuts off whoever is connected. It does nothing to one that is stopped.
func (s *Server) Stop() {
	if s.process == nil {
		return
	}
	if err := s.process.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Error(err)
	}
	if err := s.process.Wait(); err != nil {
		s.t.Errorf("PostgreSQL: %v", err)
	}
	s.process = nil
}

// Database makes an empty database and returns its DSN.
func (s *Server) Database() string {
	s.t.Helper()
	ctx := context.Background()
	connection, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer connection.Close(ctx) //nolint:errcheck // The database is made, or the test is over.
	s.databases++
	name := fmt.Sprintf("weft%d", s.databases)
	if _, err := connection.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		s.t.Fatal(err)
	}
	return s.dsn(name)
}

func (s *Server) dsn(database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {s.dir}, "user": {"postgres"}}.Encode()
}
