package mps

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gpu"
)

// Program is the name of NVIDIA's control program; the same one is the daemon and speaks to it.
const Program = "nvidia-cuda-mps-control"

// Supervisor runs control daemons.
type Supervisor struct {
	// Root is the folder of all of them; see the package comment.
	Root string
	// Program is the control program, [Program] unless it is not in the PATH.
	Program string
	// OneUser makes every daemon serve the processes of one user at a time: those of another wait until the last of the first has
	// ended. Otherwise one server, root's, serves them all.
	OneUser bool
	// Interval is how often a daemon is asked whether it answers, and the first wait before one is started again; it doubles up to
	// a hundredfold. Default 2 s.
	Interval time.Duration
	// DevShm is where the daemons have their shared memory, /dev/shm but for tests.
	DevShm string
}

// Run keeps a daemon running for each of the GPUs until ctx ends, and then ends them, and with them their clients. The error says what
// has to be done before it can begin.
func (s Supervisor) Run(ctx context.Context, gpus []gpu.ID) error {
	s.Interval = cmp.Or(s.Interval, 2*time.Second)
	s.Program = cmp.Or(s.Program, Program)
	if err := shareMemory(s.Root, cmp.Or(s.DevShm, "/dev/shm")); err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, id := range gpus {
		all.Go(func() { s.keep(klog.NewContext(ctx, klog.LoggerWithValues(klog.FromContext(ctx), "gpu", id)), id) })
	}
	all.Wait()
	return nil
}

// keep runs the daemon of one GPU, again and again.
func (s Supervisor) keep(ctx context.Context, id gpu.ID) {
	log := klog.FromContext(ctx)
	fresh := func() wait.Backoff {
		return wait.Backoff{Duration: s.Interval, Factor: 2, Jitter: 0.1, Steps: 20, Cap: 100 * s.Interval}
	}
	pause := fresh()
	for ctx.Err() == nil {
		began := time.Now()
		err := s.once(ctx, id)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > pause.Cap {
			pause = fresh() // it had been well for long
		}
		again := pause.Step()
		log.Error(err, "The MPS control daemon is not running; it is started again", "in", again.Round(time.Millisecond))
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}

// once runs the daemon of the GPU until it ends, which is an error unless ctx has ended.
func (s Supervisor) once(ctx context.Context, id gpu.ID) error {
	lock, err := claim(s.Root, id)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.Remove(readyFile(s.Root, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := sweep(s.Root, id); err != nil {
		return err
	}

	args := []string{"-f"}
	if !s.OneUser {
		args = append(args, "-multiuser-server")
	}
	output := &tail{}
	cmd := exec.Command(s.Program, args...)
	cmd.Env = s.environment(id)
	cmd.Stdout, cmd.Stderr = output, output
	// A group of its own: its servers are ended with it, and a Ctrl-C at a terminal is ours to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // its servers have inherited the output, and may outlive it
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the MPS control daemon: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watch(watching, id) })
	defer func() {
		stop()
		watcher.Wait()
		_ = os.Remove(readyFile(s.Root, id)) // it was not there, or Ready is false by the lock
	}()

	select {
	case err = <-ended:
	case <-ctx.Done():
		const patience = 5 * time.Second
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case err = <-ended:
		case <-time.After(patience):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			err = <-ended
		}
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // servers that outlive it serve nobody who can be reached
	return fmt.Errorf("%s ended: %w", Program, howEnded(err, output.String()))
}

// howEnded is how a program ended, with the last that it said.
func howEnded(err error, said string) error {
	if err == nil {
		err = errors.New("exit status 0")
	}
	if said = strings.TrimSpace(said); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// watch keeps the file that says that the daemon is ready.
func (s Supervisor) watch(ctx context.Context, id gpu.ID) {
	log := klog.FromContext(ctx)
	ready := false
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		err := s.ask(ctx, id)
		switch {
		case ctx.Err() != nil:
		case err == nil && !ready:
			if err := os.WriteFile(readyFile(s.Root, id), nil, 0o644); err != nil {
				log.Error(err, "The MPS control daemon is ready, but that cannot be written down")
				return
			}
			ready = true
			log.Info("The MPS control daemon is ready")
		case err != nil && ready:
			ready = false
			_ = os.Remove(readyFile(s.Root, id))
			log.Error(err, "The MPS control daemon does not answer")
		}
	}, s.Interval)
}

// ask asks the daemon something.
func (s Supervisor) ask(ctx context.Context, id gpu.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Program)
	cmd.Env = s.environment(id)
	cmd.Stdin = strings.NewReader("get_default_active_thread_percentage\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return howEnded(err, string(out))
	}
	return nil
}

func (s Supervisor) environment(id gpu.ID) []string {
	return append(os.Environ(),
		"CUDA_VISIBLE_DEVICES="+string(id),
		"CUDA_MPS_PIPE_DIRECTORY="+PipeDirectory(s.Root, id),
		"CUDA_MPS_LOG_DIRECTORY="+LogDirectory(s.Root, id),
	)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	const keep = 1 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	t.buf.Next(max(0, t.buf.Len()-keep))
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
