package playground

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"sigs.k8s.io/yaml"

	"weft.sh/weft/manifests"
)

// shell starts a shell script as a child.
func shell(t *testing.T, script string) *Process {
	t.Helper()
	p, err := startProcess(command{name: "script", path: "/bin/sh", args: []string{"-c", script}, dir: t.TempDir(), grace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestProcessThatEndsByItself(t *testing.T) {
	err := shell(t, "echo first; echo last >&2; exit 3").Wait()
	var exit *ExitError
	if !errors.As(err, &exit) || exit.State != "exit status 3" || exit.Tail != "first\nlast" {
		t.Errorf("got %#v, want exit status 3 and both lines", err)
	}
	if err := shell(t, "exit 0").Wait(); err == nil || !strings.Contains(err.Error(), "script ended unexpectedly (exit status 0) and wrote nothing") {
		t.Errorf("got %v; a server that ends is a failure, whatever it returns", err)
	}
}

func TestExitErrorNamesNoLogThatIsGone(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "x.log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := &ExitError{Name: "x", State: "exit status 1", LogPath: log}
	if want := "and wrote nothing to " + log; !strings.Contains(e.Error(), want) {
		t.Errorf("got %q, want %q", e, want)
	}
	e.Tail = "last words"
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if want := "x ended unexpectedly (exit status 1); the end of its log:\nlast words"; e.Error() != want {
		t.Errorf("got %q, want %q", e, want)
	}
}

func TestProcessThatIsToldToEnd(t *testing.T) {
	p := shell(t, "exec sleep 600")
	p.Stop()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	p.Stop() // once more does nothing
	p.Kill()

	p = shell(t, "exec sleep 600")
	p.Kill()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestProcessThatDoesNotStart(t *testing.T) {
	_, err := startProcess(command{name: "x", path: "/does/not/exist", dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "start x: ") {
		t.Errorf("got %v", err)
	}
}

func TestTailIsWholeLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	line := strings.Repeat("x", 99) + "\n"
	if err := os.WriteFile(path, []byte(strings.Repeat(line, 1000)+"end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := tail(path)
	if len(got) > tailBytes || !strings.HasPrefix(got, line) || !strings.HasSuffix(got, "\nend") {
		t.Errorf("%d bytes: %.120q…", len(got), got)
	}
}

// TestReservedPort: nobody is given the port, and who asks for it with SO_REUSEPORT, as the children do, can serve on it.
func TestReservedPort(t *testing.T) {
	p, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	defer p.release()
	q, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	defer q.release()
	if p.number == q.number || p.number == 0 {
		t.Errorf("ports %d and %d, want two", p.number, q.number)
	}
	if l, err := net.Listen("tcp", p.address()); err == nil {
		l.Close()
		t.Errorf("%s can be taken", p.address())
	}
	p.release()
	l, err := net.Listen("tcp", p.address())
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	l.Close()
}

func TestSchedulerConfigOfTheManifests(t *testing.T) {
	objects, err := Render(manifests.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	if objects[0].GetKind() != "Namespace" {
		t.Errorf("the first object is a %s: want the Namespace that others lie in", objects[0].GetKind())
	}
	text, err := SchedulerConfig(objects, "/k", false)
	if err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		Kind             string
		ClientConnection struct {
			Kubeconfig string
			QPS, Burst int
		}
		LeaderElection struct {
			LeaderElect  bool
			ResourceName string
		}
		Profiles []struct{ SchedulerName string }
	}
	if err := yaml.Unmarshal(text, &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Kind != "KubeSchedulerConfiguration" || cfg.ClientConnection.Kubeconfig != "/k" || cfg.ClientConnection.QPS != clientQPS ||
		cfg.ClientConnection.Burst != clientQPS || cfg.LeaderElection.LeaderElect {
		t.Errorf("not changed as it should be:\n%s", text)
	}
	if cfg.LeaderElection.ResourceName != "weft-scheduler" || len(cfg.Profiles) != 1 || cfg.Profiles[0].SchedulerName != SchedulerName {
		t.Errorf("not what is shipped:\n%s", text)
	}
	if _, err := SchedulerConfig(objects[:1], "/k", false); !errors.Is(err, ErrNoSchedulerConfig) {
		t.Errorf("without the ConfigMap: %v, want ErrNoSchedulerConfig", err)
	}
}

func TestRenderSaysWhatIsWrong(t *testing.T) {
	_, err := Render(fstest.MapFS{"kustomization.yaml": {Data: []byte("resources: [missing.yaml]\n")}}, ".")
	if err == nil || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("got %v, want an error that names missing.yaml", err)
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b)
	p.Show(1, 2, "not shown: it is too early")
	p.every = 0
	p.Show(1, 2, "%d of %d", 1, 2)
	p.Printf("done")
	if got, want := b.String(), "1 of 2\ndone\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	b.Reset()
	p.terminal = true
	p.Show(1, 2, "a long line")
	p.Show(2, 2, "short")
	p.Printf("done")
	const half, full = "[============            ] ", "[========================] "
	want := "\r" + half + "a long line" + "\r" + full + "short      " + "\r" + strings.Repeat(" ", len(full)+5) + "\rdone\n"
	if got := b.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// noReader is an output whose reader has ended.
type noReader struct{ writes int }

func (w *noReader) Write([]byte) (int, error) {
	w.writes++
	return 0, syscall.EPIPE
}

func TestProgressThatNobodyReads(t *testing.T) {
	w := &noReader{}
	p := NewProgress(w)
	select {
	case <-p.Closed():
		t.Error("closed before anything was written")
	default:
	}
	p.Printf("first")
	<-p.Closed()
	p.Printf("second")
	if err := p.Err(); !errors.Is(err, syscall.EPIPE) || w.writes != 1 {
		t.Errorf("got %v after %d writes, want EPIPE and no second one", err, w.writes)
	}
}

func TestFindBinary(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(EnvBin, dir)
	if _, err := FindBinary("weft-x"); !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "run make build") {
		t.Errorf("got %v, want an ErrNoBinary that says what to do", err)
	}
	path := filepath.Join(dir, "weft-x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FindBinary("weft-x"); !errors.Is(err, ErrNoBinary) {
		t.Errorf("a file that cannot be run: %v, want ErrNoBinary", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := FindBinary("weft-x"); err != nil || got != path {
		t.Errorf("got %q, %v; want %q", got, err, path)
	}
}
