package mps

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

const (
	asControl = "WEFT_TEST_AS_MPS_CONTROL"
	testGPU   = gpu.ID("GPU-0a1b")
)

// TestMain lets the test binary stand for NVIDIA's control program.
func TestMain(m *testing.M) {
	if os.Getenv(asControl) == "" {
		os.Exit(m.Run())
	}
	if err := control(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// control is the part of nvidia-cuda-mps-control that matters here. With arguments it is the daemon, which lists its own process,
// arguments and environment in the log folder; without it asks one, that must have its socket in the pipe folder, and a file named
// mute in the log folder makes it not answer.
func control(args []string) error {
	socket := filepath.Join(os.Getenv("CUDA_MPS_PIPE_DIRECTORY"), "control")
	logs := os.Getenv("CUDA_MPS_LOG_DIRECTORY")
	if len(args) == 0 {
		command, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if command != "get_default_active_thread_percentage\n" {
			return fmt.Errorf("unknown command %q", command)
		}
		if _, err := os.Stat(socket); err != nil {
			return fmt.Errorf("no daemon: %w", err)
		}
		if _, err := os.Stat(filepath.Join(logs, "mute")); err == nil {
			return fmt.Errorf("the daemon is busy")
		}
		return nil
	}
	if _, err := os.Stat(socket); err == nil {
		return fmt.Errorf("an instance of this daemon is already running")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	line := fmt.Sprintf("%d %s %s\n", os.Getpid(), os.Getenv("CUDA_VISIBLE_DEVICES"), strings.Join(args, " "))
	starts, err := os.OpenFile(filepath.Join(logs, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := starts.WriteString(line); err != nil {
		return err
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		return err
	}
	<-stop
	return nil
}

// start runs a supervisor until the test ends, or until the function that it returns is called.
func start(t *testing.T, s Supervisor) (stop func()) {
	t.Helper()
	t.Setenv(asControl, "yes")
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a program that is built to find races waits a second before it ends
	if s.Program == "" {
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		s.Program = program
	}
	s.Interval = 10 * time.Millisecond
	s.DevShm = sharedMemory(s.Root) // which is what a container has mounted at /dev/shm
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx, []gpu.ID{testGPU}); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// until waits for the condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// starts is what the daemons have listed, one line each.
func starts(t *testing.T, root string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(LogDirectory(root, testGPU), "starts"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func pidOf(t *testing.T, line string) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.Fields(line)[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestDaemonRunsAndEndsWithTheSupervisor(t *testing.T) {
	for name, tc := range map[string]struct {
		oneUser bool
		want    string
	}{
		"for every user":             {false, "GPU-0a1b -f -multiuser-server"},
		"for one user after another": {true, "GPU-0a1b -f"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if Ready(root, testGPU) {
				t.Error("ready before anything was started")
			}
			stop := start(t, Supervisor{Root: root, OneUser: tc.oneUser})
			until(t, "ready", func() bool { return Ready(root, testGPU) })
			lines := starts(t, root)
			pid := pidOf(t, lines[0])
			if diff := cmp.Diff([]string{fmt.Sprintf("%d %s", pid, tc.want)}, lines); diff != "" {
				t.Errorf("daemons (-want +got):\n%s", diff)
			}
			stop()
			if Ready(root, testGPU) {
				t.Error("still ready after the end")
			}
			if alive(pid) {
				t.Errorf("daemon %d is still running", pid)
			}
		})
	}
}

func TestSharedMemoryMustBeMounted(t *testing.T) {
	root := t.TempDir()
	err := Supervisor{Root: root, DevShm: t.TempDir()}.Run(t.Context(), []gpu.ID{testGPU})
	if err == nil || !strings.Contains(err.Error(), "mount that folder there") {
		t.Errorf("error %v, want one that says what to mount", err)
	}
}

func TestClientsHaveTheDaemonsMemory(t *testing.T) {
	root := t.TempDir()
	start(t, Supervisor{Root: root})
	until(t, "ready", func() bool { return Ready(root, testGPU) })
	daemons, err := os.Stat(sharedMemory(root))
	if err != nil {
		t.Fatal(err)
	}
	clients, err := os.Stat(filepath.Join(root, string(testGPU), "shm"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(daemons, clients) || clients.Mode().Perm() != 0o777 {
		t.Errorf("clients get %v, want the daemons' folder, writable for every user", clients.Mode())
	}
}

func TestKilledDaemonIsStartedAgain(t *testing.T) {
	root := t.TempDir()
	start(t, Supervisor{Root: root})
	until(t, "ready", func() bool { return Ready(root, testGPU) })
	first := pidOf(t, starts(t, root)[0])
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil { // its socket stays behind
		t.Fatal(err)
	}
	until(t, "a second daemon that is ready", func() bool { return len(starts(t, root)) == 2 && Ready(root, testGPU) })
}

func TestReadyOnlyWhileTheDaemonAnswers(t *testing.T) {
	root := t.TempDir()
	start(t, Supervisor{Root: root})
	until(t, "ready", func() bool { return Ready(root, testGPU) })
	mute := filepath.Join(LogDirectory(root, testGPU), "mute")
	if err := os.WriteFile(mute, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "not ready, for it does not answer", func() bool { return !Ready(root, testGPU) })
	if err := os.Remove(mute); err != nil {
		t.Fatal(err)
	}
	until(t, "ready again", func() bool { return Ready(root, testGPU) })
	if got := len(starts(t, root)); got != 1 {
		t.Errorf("%d daemons were started, want 1: one that is only busy has clients", got)
	}
}

func TestWhatAKilledSupervisorLeftIsNotReady(t *testing.T) {
	root := t.TempDir()
	lock, err := claim(root, testGPU)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(readyFile(root, testGPU), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !Ready(root, testGPU) {
		t.Error("not ready although the file is there and locked")
	}
	lock.Close() // what the kernel does for a process that was killed
	if Ready(root, testGPU) {
		t.Error("ready although nobody looks after the daemon")
	}
}

func TestOneSupervisorPerGPU(t *testing.T) {
	root := t.TempDir()
	lock, err := claim(root, testGPU)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(root, testGPU); err == nil {
		t.Fatal("a second claim succeeded")
	}
	start(t, Supervisor{Root: root})
	// The other one holds the lock; when it lets go, the daemon starts.
	lock.Close()
	until(t, "ready", func() bool { return Ready(root, testGPU) })
}

func TestProgramThatComesLater(t *testing.T) {
	root := t.TempDir()
	program := filepath.Join(t.TempDir(), Program)
	start(t, Supervisor{Root: root, Program: program})
	until(t, "a first try", func() bool {
		_, err := os.Stat(lockFile(root, testGPU))
		return err == nil
	})
	if Ready(root, testGPU) {
		t.Error("ready without a program")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	until(t, "ready", func() bool { return Ready(root, testGPU) })
}
