package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"weft.sh/weft/pkg/playground"
)

// build finds a binary of this repository. Where make runs the tests, or $WEFT_BIN is set, it was just built. Otherwise it
// is built now, so that a test never meets an old one; the go command does nothing where it is up to date. It goes into a
// folder of its own, because make links the Kubernetes version into those in bin.
var build = func() func(name string) (string, error) {
	var mu sync.Mutex
	done := map[string]error{}
	return func(name string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if os.Getenv(playground.EnvBin) != "" || os.Getenv("GO_LDFLAGS") != "" {
			return playground.FindBinary(name)
		}
		root, err := playground.RepositoryRoot()
		if err != nil {
			return "", err
		}
		path := filepath.Join(root, "_output", "test", name)
		if err, ok := done[name]; ok {
			return path, err
		}
		cmd := exec.Command("go", "build", "-o", path, "./cmd/"+name)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			done[name] = fmt.Errorf("go build ./cmd/%s: %w\n%s", name, err, out)
			return path, done[name]
		}
		done[name] = nil
		return path, nil
	}
}()

// binary is the path of a binary of this repository.
func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := build(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startControlPlane starts a control plane that ends with the test.
func startControlPlane(t *testing.T, o playground.ControlPlaneOptions) *playground.ControlPlane {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a kube-apiserver; not with -short")
	}
	if o.Binary == "" {
		o.Binary = binary(t, "weft-playground")
	}
	cp, err := playground.StartControlPlane(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cp.Stop(); err != nil {
			t.Error(err)
		}
	})
	return cp
}

func clientset(t *testing.T, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gone reports whether no process has the pid.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestControlPlaneServesAndLeavesNothing(t *testing.T) {
	cp := startControlPlane(t, playground.ControlPlaneOptions{})
	ctx := t.Context()

	admin := clientset(t, cp.AdminConfig())
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
	if _, err := admin.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatalf("a pod needs no service account here: %v", err)
	}
	node, err := admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(node.Spec.Taints) > 0 {
		t.Errorf("taints of a new node: %v, and nobody takes them away", node.Spec.Taints)
	}

	// Without the shipped RBAC the scheduler's account may do nothing, so a test of it tests the RBAC.
	scheduler := clientset(t, cp.ConfigFor(playground.SchedulerUser))
	if _, err := scheduler.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("nodes as the scheduler: %v, want Forbidden", err)
	}
	somebody := clientset(t, cp.ConfigFor("somebody", "system:masters"))
	if _, err := somebody.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("nodes as a user with groups: %v", err)
	}

	path, err := cp.Kubeconfig(playground.SchedulerUser)
	if err != nil {
		t.Fatal(err)
	}
	fromFile, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clientset(t, fromFile).CoreV1().Nodes().List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("nodes with the scheduler's kubeconfig: %v, want Forbidden", err)
	}

	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	<-cp.Done()
	if err := cp.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
	for _, p := range []*playground.Process{cp.Etcd(), cp.APIServer()} {
		if err := p.Wait(); err != nil {
			t.Errorf("%s after Stop: %v", p.Name(), err)
		}
		if !gone(p.PID()) {
			t.Errorf("%s (pid %d) is still there", p.Name(), p.PID())
		}
	}
	if _, err := os.Stat(cp.Dir()); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", cp.Dir(), err)
	}
}

func TestTwoControlPlanesAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a kube-apiserver; not with -short")
	}
	o := playground.ControlPlaneOptions{Binary: binary(t, "weft-playground")}
	var cps [2]*playground.ControlPlane
	var errs [2]error
	var wg sync.WaitGroup
	for i := range cps {
		wg.Go(func() { cps[i], errs[i] = playground.StartControlPlane(t.Context(), o) })
	}
	wg.Wait()
	for i, cp := range cps {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		t.Cleanup(func() { _ = cp.Stop() })
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "only-in-the-first"}}
	if _, err := clientset(t, cps[0].AdminConfig()).CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	second := clientset(t, cps[1].AdminConfig())
	if _, err := second.CoreV1().Namespaces().Get(t.Context(), ns.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("namespace of the first in the second: %v, want NotFound", err)
	}
	if err := cps[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the second after the first stopped: %v", err)
	}
}

func TestDeathOfAChildIsReported(t *testing.T) {
	cp := startControlPlane(t, playground.ControlPlaneOptions{})
	if err := syscall.Kill(cp.APIServer().PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-cp.Done():
	case <-ctx.Done():
		t.Fatal("the death of kube-apiserver was not noticed")
	}
	var exit *playground.ExitError
	if err := cp.Err(); !errors.As(err, &exit) {
		t.Fatalf("Err: %v, want an ExitError", err)
	}
	if exit.Name != "kube-apiserver" || exit.State != "signal: killed" || exit.Tail == "" {
		t.Errorf("got %+v, want kube-apiserver, signal: killed, and the end of its log", exit)
	}
}

func TestControlPlaneThatCannotStartSaysWhy(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a kube-apiserver; not with -short")
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	_, err := playground.StartControlPlane(t.Context(), playground.ControlPlaneOptions{
		Binary:        binary(t, "weft-playground"),
		APIServerArgs: []string{"--no-such-flag"},
	})
	if err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("got %v, want kube-apiserver's own words", err)
	}
	if entries, err := os.ReadDir(temp); err != nil || len(entries) > 0 {
		t.Errorf("left in the temporary directory: %v (%v), want nothing", entries, err)
	}

	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = playground.StartControlPlane(t.Context(), playground.ControlPlaneOptions{Binary: "/nowhere", Dir: used})
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("got %v, want that the directory is not empty", err)
	}
}

// up is a running "weft-playground up".
type up struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	temp   string
	// lines is what it prints after the cluster is up, closed at its end.
	lines chan string
	// children are the pids of its servers.
	children []int
}

// newUp is "weft-playground up" with one node, to be started, and what it prints.
func newUp(t *testing.T) (*up, io.ReadCloser) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a kube-apiserver; not with -short")
	}
	u := &up{temp: t.TempDir()}
	u.cmd = exec.Command(binary(t, "weft-playground"), "up", "--nodes=h100=1", "--scheduler", binary(t, "weft-scheduler"))
	u.cmd.Env = append(os.Environ(), "TMPDIR="+u.temp)
	u.cmd.Stderr = &u.stderr
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return u, out
}

// startUp starts "weft-playground up" and waits until it says that the cluster is up.
func startUp(t *testing.T) *up {
	t.Helper()
	u, out := newUp(t)
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.cmd.Process.Kill() })
	// Nobody may read the lines, and then it must not wait for that.
	u.lines = make(chan string, 1000)
	go func() {
		defer close(u.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			u.lines <- lines.Text()
		}
	}()
	u.waitLine(t, "Ctrl-C stops it")
	u.children = childrenOf(t, u.cmd.Process.Pid)
	if len(u.children) != 5 {
		t.Errorf("%d children, want etcd, kube-apiserver, kwok, weft-controller and weft-scheduler", len(u.children))
	}
	return u
}

// waitLine waits until it prints a line that begins with the text.
func (u *up) waitLine(t *testing.T, prefix string) {
	t.Helper()
	var before []string
	for line := range u.lines {
		if strings.HasPrefix(line, prefix) {
			return
		}
		before = append(before, line)
	}
	_ = u.cmd.Wait()
	t.Fatalf("it ended before it said %q: %s\n%s", prefix, strings.Join(before, "\n"), u.stderr.String())
}

// killScheduler kills its scheduler, which is waited for: it may be about to be started again.
func (u *up) killScheduler(t *testing.T) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		for _, pid := range childrenOf(t, u.cmd.Process.Pid) {
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(exe) == "weft-scheduler" {
				return true, syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("weft-scheduler is not among the children: %v", err)
	}
}

// childrenOf lists the processes whose parent the pid is.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skip("there is no /proc to find processes in")
	}
	var children []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name of the program stands in brackets and may hold anything.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			children = append(children, child)
		}
	}
	return children
}

// nothingLeft reports processes and files that a run left behind.
func (u *up) nothingLeft(t *testing.T) {
	t.Helper()
	for _, pid := range u.children {
		if !gone(pid) {
			t.Errorf("child %d is still there", pid)
		}
	}
	if entries, err := os.ReadDir(u.temp); err != nil || len(entries) > 0 {
		t.Errorf("left in the temporary directory: %v (%v)", entries, err)
	}
}

func TestPlaygroundUpEndsOnSignal(t *testing.T) {
	for name, sig := range map[string]os.Signal{"Ctrl-C": os.Interrupt, "the terminal is closed": syscall.SIGHUP} {
		t.Run(name, func(t *testing.T) {
			u := startUp(t)
			if err := u.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			// A shell that ends sends it once more.
			if sig == syscall.SIGHUP {
				_ = u.cmd.Process.Signal(sig)
			}
			if err := u.cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, u.stderr.String())
			}
			u.nothingLeft(t)
		})
	}
}

// TestPlaygroundUpEndsWithItsReader is "weft-playground up | head -2".
func TestPlaygroundUpEndsWithItsReader(t *testing.T) {
	u, out := newUp(t)
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	for range 2 {
		if !lines.Scan() {
			t.Fatalf("it ended too early: %v", u.cmd.Wait())
		}
	}
	u.children = childrenOf(t, u.cmd.Process.Pid)
	if len(u.children) < 2 {
		t.Errorf("%d children, want etcd and kube-apiserver at least", len(u.children))
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	err := u.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("got %v, want exit code 1", err)
	}
	if want := "stopped, because nobody reads the output"; !strings.Contains(u.stderr.String(), want) {
		t.Errorf("got %q, want %q", u.stderr.String(), want)
	}
	u.nothingLeft(t)
}

func TestPlaygroundUpStartsItsSchedulerAgain(t *testing.T) {
	u := startUp(t)
	u.killScheduler(t)
	u.waitLine(t, "weft-scheduler ended (signal: killed), started again")
	u.waitLine(t, "weft-scheduler on ")
	u.children = append(u.children, childrenOf(t, u.cmd.Process.Pid)...)
	// Four more are borne, in whatever state it is; the sixth within a minute is one too many.
	for range 4 {
		u.killScheduler(t)
		u.waitLine(t, "weft-scheduler ended (signal: killed), started again")
	}
	u.killScheduler(t)
	err := u.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("got %v, want exit code 1", err)
	}
	if want := "given up, for it ended more than 5 times within 1m0s: weft-scheduler ended unexpectedly (signal: killed); the end of "; !strings.Contains(u.stderr.String(), want) {
		t.Errorf("got %q, want %q and its log", u.stderr.String(), want)
	}
	u.nothingLeft(t)
}

func TestChildrenEndWithTheirParent(t *testing.T) {
	u := startUp(t)
	if err := u.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = u.cmd.Wait()
	// The kernel kills them, and whoever has inherited them has to wait for them.
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return !slices.ContainsFunc(u.children, func(pid int) bool { return !gone(pid) }), nil
	})
	if err != nil {
		t.Errorf("not all of %v have ended: %v", u.children, err)
	}
}

func TestPlaygroundDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a kube-apiserver; not with -short")
	}
	u := &up{temp: t.TempDir()}
	cmd := exec.CommandContext(t.Context(), binary(t, "weft-playground"), "demo", "--scheduler", binary(t, "weft-scheduler"))
	cmd.Env = append(os.Environ(), "TMPDIR="+u.temp)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	inOrder(
		t, string(out), "56 pods bound and 15 unschedulable", "71 pods created: 56 fit, 15 cannot, on purpose:", "podgroup never-gang has no room now", "never-h200 cannot run.",
		"make up", "100 GPUs on 14 nodes", "86.5% assigned", "\nW held whole", "B  default/gang        Running",
	)
	u.nothingLeft(t)
}

// inOrder reports texts that do not stand in the output after those before them.
func inOrder(t *testing.T, out string, texts ...string) {
	t.Helper()
	rest := out
	for _, want := range texts {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("%q is not where it should be in the output:\n%s", want, out)
		}
		rest = after
	}
}

func TestPlaygroundUpWithAWorkload(t *testing.T) {
	u, _ := newUp(t)
	cmd := exec.CommandContext(t.Context(), u.cmd.Path, "up", "--workload", "--exit", "--scheduler", binary(t, "weft-scheduler"))
	cmd.Env = u.cmd.Env
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	out := string(b)
	inOrder(t, out, "export KUBECONFIG=", "bin/weft why POD", "56 pods bound at ", "never-h200 cannot run.", "100 GPUs on 14 nodes")
	if n := strings.Count(out, "never-h200"); n != 1 {
		t.Errorf("why never-h200 cannot run is said %d times:\n%s", n, out)
	}
	u.nothingLeft(t)
}

func TestSchedulerIsKilledAndStartedAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a kube-apiserver; not with -short")
	}
	nodes, err := playground.ParseNodes("h100=1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := playground.Start(t.Context(), playground.Options{
		Binary: binary(t, "weft-playground"), Scheduler: binary(t, "weft-scheduler"), Nodes: nodes, LeaderElection: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	log, err := os.ReadFile(c.Scheduler.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "extension-apiserver-authentication") && strings.Contains(line, "not found") {
			t.Errorf("the scheduler's log says %s", line)
		}
	}
	c.Scheduler.Kill()
	if err := c.Scheduler.Wait(); err != nil {
		t.Errorf("Wait after Kill: %v", err)
	}
	select {
	case <-c.Done():
		t.Fatalf("a scheduler that was killed on purpose ended the cluster: %v", c.Err())
	default:
	}
	if c.Scheduler, err = playground.StartScheduler(t.Context(), c.SchedulerOptions); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	counts, _, err := c.RunWorkload(ctx, []playground.Pod{{Name: "a", GPUs: 3}, {Name: "b", GPUs: 5}}, true, 0, playground.NewProgress(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	if counts.Bound != 2 || counts.MilliGPU != 8000 {
		t.Errorf("got %+v, want 2 pods with 8 GPUs", counts)
	}
	// KWOK runs what is bound.
	pods := clientset(t, c.ControlPlane.AdminConfig()).CoreV1().Pods("default")
	err = wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		running, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
		return err == nil && len(running.Items) == 2, err
	})
	if err != nil {
		t.Errorf("the pods do not run: %v", err)
	}
}
