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
type Progress struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	every    time.Duration
	last     time.Time
	shown    int // characters of the line that is to be overwritten, on a terminal
}

const (
	terminalEvery = 200 * time.Millisecond
	linesEvery    = 10 * time.Second
)

// NewProgress writes to out, which is treated as a terminal when it is one.
func NewProgress(out io.Writer) *Progress {
	p := &Progress{out: out, every: linesEvery, last: time.Now()}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal, p.every, p.last = true, terminalEvery, time.Time{}
	}
	return p
}

// Terminal reports whether a person watches.
func (p *Progress) Terminal() bool { return p.terminal }

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
		fmt.Fprintln(p.out, text)
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
	fmt.Fprintf(p.out, "\r%s%s", text, strings.Repeat(" ", pad))
	p.shown = len(text)
}

// Write prints whole lines, above the line that is being rewritten.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown > 0 {
		p.rewrite("")
		fmt.Fprint(p.out, "\r")
		p.shown = 0
	}
	return p.out.Write(b)
}

// Printf prints a line.
func (p *Progress) Printf(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }
