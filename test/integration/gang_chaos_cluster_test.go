//go:build linux

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/playground"
)

func startGangChaos(t *testing.T) *gangChaos {
	nodes := fmt.Sprintf("h100=%d", chaosNodes)
	x := &gangChaos{
		cluster: startCluster(t, nodes), audit: newAudit(t, nodes), pods: map[string]*corev1.Pod{}, gangs: map[string]*chaosGang{},
		changed: make(chan struct{}), refuse: map[string]int{}, lose: map[string]bool{}, arrived: map[string]int{},
	}
	x.groups = podGroups(t, x.cfg)
	var err error
	if x.direct, err = rest.HTTPClientFor(x.cp.ConfigFor(playground.SchedulerUser)); err != nil {
		t.Fatal(err)
	}
	x.instead("chaos", x.answer)
	x.impatient()
	x.apiServer = x.restartable()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { x.follow(ctx) })
	wg.Go(func() { x.sweep(ctx) })
	x.stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(x.stop)
	x.startScheduler()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, log := range []string{x.scheduler.LogPath(), filepath.Join(x.cp.Dir(), "kube-apiserver.log")} {
			if data, err := os.ReadFile(log); err == nil {
				_ = os.WriteFile(filepath.Join(t.ArtifactDir(), filepath.Base(log)), data, 0o600)
			}
		}
	})
	startController(t, x.cp)
	return x
}

// impatient has the scheduler try again every second: it would take longer each time.
func (x *gangChaos) impatient() {
	x.t.Helper()
	data, err := os.ReadFile(x.options.Config)
	if err != nil {
		x.t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(data, &config); err != nil {
		x.t.Fatal(err)
	}
	config["podInitialBackoffSeconds"], config["podMaxBackoffSeconds"] = 1, 1
	if data, err = yaml.Marshal(config); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(x.options.Config, data, 0o600); err != nil {
		x.t.Fatal(err)
	}
}

// restartable returns a function that kills the API server and starts it again, with the same arguments, on the same port.
func (x *gangChaos) restartable() func() {
	x.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", x.cp.APIServer().PID()))
	if err != nil {
		x.t.Fatal(err)
	}
	args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	x.holdPort(x.cp.APIServer().Address())
	kill := x.cp.APIServer().Kill
	x.t.Cleanup(func() { kill() })
	return func() {
		kill()
		log, err := os.OpenFile(filepath.Join(x.cp.Dir(), "kube-apiserver.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			x.t.Error(err)
			return
		}
		defer log.Close()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = x.cp.Dir(), log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		started, done := make(chan error), make(chan struct{})
		go func() {
			runtime.LockOSThread() // the child dies with the thread that started it
			defer runtime.UnlockOSThread()
			defer close(done)
			err := cmd.Start()
			started <- err
			if err == nil {
				_ = cmd.Wait()
			}
		}()
		if err := <-started; err != nil {
			x.t.Error(err)
			return
		}
		kill = func() {
			_ = cmd.Process.Kill()
			<-done
		}
		x.try("wait for the API server", func(ctx context.Context) error {
			return x.client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		})
	}
}

// holdPort keeps the port from others while nobody listens on it.
func (x *gangChaos) holdPort(address string) {
	x.t.Helper()
	var port int
	if _, err := fmt.Sscanf(address, "127.0.0.1:%d", &port); err != nil {
		x.t.Fatalf("address %s: %v", address, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		x.t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		x.t.Fatal(err)
	}
}

// try does it until it succeeds: the API server may be away.
func (x *gangChaos) try(what string, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(x.t.Context(), chaosPatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			x.t.Errorf("%s: %v", what, err)
			return
		case <-tick.C:
		}
	}
}

// add creates a pod; one that is there was created by an attempt of which the answer was lost.
func (x *gangChaos) add(p *corev1.Pod) {
	x.try("create "+p.Name, func(ctx context.Context) error {
		_, err := x.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, p, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

func (x *gangChaos) addGroup(g *chaosGang) {
	x.try("create PodGroup "+g.name, func(ctx context.Context) error {
		_, err := x.groups.Create(ctx, podGroup(g.name, int64(g.min), g.notes), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// remove deletes pods at once, without the time to end that a kubelet would give them.
func (x *gangChaos) remove(names ...string) {
	for _, name := range names {
		x.try("delete "+name, func(ctx context.Context) error {
			err := x.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, name, *metav1.NewDeleteOptions(0))
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
}

func (x *gangChaos) removeGroup(name string) {
	x.try("delete PodGroup "+name, func(ctx context.Context) error {
		err := x.groups.Delete(ctx, name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// answer refuses bindings, and loses the answers to others.
func (x *gangChaos) answer(r *http.Request) (int, string) {
	path, ok := strings.CutSuffix(r.URL.Path, "/binding")
	if !ok {
		return 0, ""
	}
	name := path[strings.LastIndexByte(path, '/')+1:]
	x.mu.Lock()
	x.arrived[roundOf(name)]++
	x.poke()
	refused, lost := x.refuse[name] > 0, x.lose[name]
	if refused {
		x.refuse[name]--
		x.refusals++
	} else if lost {
		delete(x.lose, name)
		x.losses++
	}
	x.mu.Unlock()
	switch {
	case refused:
		return http.StatusForbidden, forbidden
	case lost:
		x.forward(r)
		return http.StatusInternalServerError,
			`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"InternalError","message":"the answer was lost","code":500}`
	}
	return 0, ""
}

// forward has the API server do what the request asks for, and drops what it answers.
func (x *gangChaos) forward(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the scheduler was killed
	}
	url := x.cp.ConfigFor(playground.SchedulerUser).Host + r.URL.RequestURI()
	req, err := http.NewRequestWithContext(x.t.Context(), r.Method, url, bytes.NewReader(body))
	if err != nil {
		x.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	if resp, err := x.direct.Do(req); err == nil {
		resp.Body.Close()
	}
}
