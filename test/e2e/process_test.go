//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a running component. It is in the namespaces of the tests, so it needs no care to end with them.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	// told says that a test ended it.
	told atomic.Bool
}

// grace is how long SIGTERM may take before SIGKILL.
const grace = 20 * time.Second

// startProcess starts a binary. What it writes is appended to name.log, so a component that is started again continues its
// log.
func startProcess(name, path string, args ...string) (*process, error) {
	log, err := os.OpenFile(logPath(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// logPath is the file that holds what a component writes.
func logPath(name string) string { return filepath.Join(nodeDir, name+".log") }

// kill ends the process as a crash would, and waits for its end.
func (p *process) kill() { p.end(syscall.SIGKILL) }

// stop ends the process as a service manager would, and waits for its end.
func (p *process) stop() { p.end(syscall.SIGTERM) }

func (p *process) end(sig syscall.Signal) {
	p.told.Store(true)
	_ = p.cmd.Process.Signal(sig)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// failed says how the process ended by itself, "" while it runs or when a test ended it.
func (p *process) failed() string {
	if ended(p.done) && !p.told.Load() {
		return fmt.Sprintf("%s ended by itself: %v", p.name, p.cmd.ProcessState)
	}
	return ""
}
