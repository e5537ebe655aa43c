package playground

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Progress shows how far long work is: on a terminal one line that is rewritten, elsewhere a line every ten seconds.
// Its methods may be called from several goroutines. It is an io.Writer for whole lines, which go above the current one.
// When its output can no longer be written to, Closed says so, and nothing else is tried.
type Progress struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	every    time.Duration
	last     time.Time
	shown    int // characters of the line that is to be overwritten, on a terminal
	err      error
	closed   chan struct{} // closed when err is set
}

const (
	terminalEvery = 200 * time.Millisecond
	linesEvery    = 10 * time.Second
)

// NewProgress writes to out, which is treated as a terminal when it is one.
func NewProgress(out io.Writer) *Progress {
	p := &Progress{out: out, every: linesEvery, last: time.Now(), closed: make(chan struct{})}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal, p.every, p.last = true, terminalEvery, time.Time{}
	}
	return p
}

// Terminal reports whether a person watches.
func (p *Progress) Terminal() bool { return p.terminal }

// Closed is closed when the output could not be written to, as when the reader of a pipe has ended; Err says why.
func (p *Progress) Closed() <-chan struct{} { return p.closed }

// Err is the first failure to write, nil without any.
func (p *Progress) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// write is the one place that writes. The caller holds the lock.
func (p *Progress) write(text string) {
	if p.err != nil {
		return
	}
	if _, err := io.WriteString(p.out, text); err != nil {
		p.err = err
		close(p.closed)
	}
}

// Show shows the state of the work, unless it was shown a moment ago. A terminal gets a bar for done of total; total 0 is
// no bar.
func (p *Progress) Show(done, total int, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.last) < p.every {
		return
	}
	p.last = time.Now()
	text := fmt.Sprintf(format, args...)
	if !p.terminal {
		p.write(text + "\n")
		return
	}
	if total > 0 {
		const width = 24
		filled := min(width, width*done/total)
		text = "[" + strings.Repeat("=", filled) + strings.Repeat(" ", width-filled) + "] " + text
	}
	p.rewrite(text)
}

// rewrite replaces the current line of a terminal. The caller holds the lock.
func (p *Progress) rewrite(text string) {
	pad := max(0, p.shown-len(text))
	p.write("\r" + text + strings.Repeat(" ", pad))
	p.shown = len(text)
}

// Write prints whole lines, above the line that is being rewritten.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown > 0 {
		p.rewrite("")
		p.write("\r")
		p.shown = 0
	}
	p.write(string(b))
	return len(b), p.err
}

// Printf prints a line.
func (p *Progress) Printf(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }
