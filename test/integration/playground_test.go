package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"weft.sh/weft/pkg/playground"
)

// build compiles a binary of this repository into its bin folder, once per test run, so that a test never meets an old
// one; the go command does nothing where it is up to date. With $WEFT_BIN the tests take what is there.
var build = func() func(name string) (string, error) {
	var mu sync.Mutex
	done := map[string]error{}
	return func(name string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if os.Getenv(playground.EnvBin) != "" {
			return playground.FindBinary(name)
		}
		root, err := playground.RepositoryRoot()
		if err != nil {
			return "", err
		}
		path := filepath.Join(root, "bin", name)
		if err, ok := done[name]; ok {
			return path, err
		}
		cmd := exec.Command("go", "build", "-o", path, "./cmd/"+name)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			done[name] = errors.New("go build ./cmd/" + name + ": " + err.Error() + "\n" + string(out))
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
