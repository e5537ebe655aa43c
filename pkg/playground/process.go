package playground

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child process. All methods may be called from several goroutines.
type Process struct {
	name    string
	logPath string
	address string
	grace   time.Duration
	port    *port
	cmd     *exec.Cmd
	done    chan struct{}

	mu sync.Mutex
	// told says that the end was asked for, so that it is no failure.
	told bool
	// err is set before done is closed, and never after.
	err error
}

// ExitError is the end of a child process that nobody asked for.
type ExitError struct {
	Name    string
	State   string
	LogPath string
	// Tail is the end of the log, at most tailBytes.
	Tail string
}

// Error says which process ended, how, and what it said last. The log is named only as long as it is there: a temporary
// folder is gone when the error of a run is read.
func (e *ExitError) Error() string {
	log := "its log"
	if _, err := os.Stat(e.LogPath); err == nil {
		log = e.LogPath
	}
	if e.Tail == "" {
		return fmt.Sprintf("%s ended unexpectedly (%s) and wrote nothing to %s", e.Name, e.State, log)
	}
	return fmt.Sprintf("%s ended unexpectedly (%s); the end of %s:\n%s", e.Name, e.State, log, e.Tail)
}

// tailBytes is how much of a log an error repeats: enough for a panic's first frames, and it still fits a screen.
const tailBytes = 4 << 10

// command is what startProcess needs.
type command struct {
	name string
	path string
	args []string
	env  []string
	// dir is the run's directory; the log is name.log in it, appended to where it exists.
	dir string
	// grace is how long SIGTERM may take before SIGKILL.
	grace time.Duration
	// port is where the process serves, nil where it does not; it is given back when the process has ended.
	port *port
}

// startProcess starts the command and returns at once. A process that cannot be started gives back its port.
func startProcess(c command) (*Process, error) {
	p := &Process{
		name:    c.name,
		logPath: filepath.Join(c.dir, c.name+".log"),
		grace:   c.grace,
		port:    c.port,
		cmd:     exec.Command(c.path, c.args...),
		done:    make(chan struct{}),
	}
	if c.port != nil {
		p.address = c.port.address()
	}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.port.release()
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	// The child has its own copy; a file (not a writer) also means that Wait has nothing to copy.
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Dir = c.dir
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.SysProcAttr = sysProcAttr()

	// The kernel sends the parent-death signal when the thread that started the child ends, not the process. This
	// goroutine keeps its thread for as long as the child lives.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.exited(p.cmd.Wait())
		}
	}()
	if err := <-started; err != nil {
		p.port.release()
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return p, nil
}

func (p *Process) exited(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.told {
		state := "exit status 0"
		if err != nil {
			state = err.Error()
		}
		p.err = &ExitError{Name: p.name, State: state, LogPath: p.logPath, Tail: tail(p.logPath)}
	}
	p.port.release()
	close(p.done)
}

// Name is the process in words, for example "kube-apiserver".
func (p *Process) Name() string { return p.name }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// LogPath is the file that holds what the process writes.
func (p *Process) LogPath() string { return p.logPath }

// Address is host:port of the endpoint that the process serves, empty where it serves none.
func (p *Process) Address() string { return p.address }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process: nil when Stop or Kill asked for it, an [*ExitError] otherwise.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Kill ends the process at once (SIGKILL), as a crash or an eviction would, and waits for its end.
func (p *Process) Kill() { p.end(0, syscall.SIGKILL) }

// Stop ends the process with SIGTERM, and with SIGKILL after its grace, and waits for its end.
func (p *Process) Stop() { p.end(p.grace, syscall.SIGTERM) }

func (p *Process) end(grace time.Duration, sig syscall.Signal) {
	p.mu.Lock()
	select {
	case <-p.done:
		p.mu.Unlock()
		return
	default:
	}
	p.told = true
	p.mu.Unlock()
	// os.Process never signals a process that has been waited for, so the pid cannot be somebody else's.
	_ = p.cmd.Process.Signal(sig)
	if sig != syscall.SIGKILL {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-p.done:
			return
		case <-t.C:
			_ = p.cmd.Process.Kill()
		}
	}
	<-p.done
}

// waitReady polls until check succeeds. It gives up when ctx ends or when the process does, whichever is first, and then
// says what check found last.
func (p *Process) waitReady(ctx context.Context, check func(context.Context) error) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return cmpErr(p.Wait(), fmt.Errorf("%s was stopped while it started", p.name))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w); the end of its log:\n%s", p.name, context.Cause(ctx), err, tail(p.logPath))
		case <-tick.C:
		}
	}
}

// cmpErr is the first error that is not nil.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// tail is the end of a file, whole lines, empty when it cannot be read.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	from := max(0, size-tailBytes)
	b := make([]byte, size-from)
	n, err := f.ReadAt(b, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	b = b[:n]
	if from > 0 {
		if _, rest, ok := bytes.Cut(b, []byte("\n")); ok {
			b = rest
		}
	}
	return strings.TrimSpace(string(b))
}
