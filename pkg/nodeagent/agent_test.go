package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/metering"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/nvml/nvmlfake"
	"weft.sh/weft/pkg/slot"
)

// running is an agent in a cluster without a kubelet.
type running struct {
	*agent
	t      *testing.T
	client *fake.Clientset
	url    string
	// stop stops it and returns what Run would have.
	stop func() error
	// ended is closed when it has ended, with err.
	ended chan struct{}
	err   error
}

func startAgent(t *testing.T, client *fake.Clientset, fake *nvmlfake.Fake, change func(*Config)) *running {
	t.Helper()
	dir := t.TempDir()
	c := Config{
		NodeName: testNode, Client: client, Mode: ModeAll, Listen: "127.0.0.1:0",
		Open:   func(nvml.Options) (*nvml.Library, error) { return nvml.New(fake), nil },
		Driver: DriverConfig{Root: filepath.Join(dir, "driver")},
		Paths: PathConfig{
			Kubelet: filepath.Join(dir, "kubelet"), DevicePlugins: filepath.Join(dir, "plugins"), CDI: filepath.Join(dir, "cdi"), State: filepath.Join(dir, "state"),
		},
	}
	if change != nil {
		change(&c)
	}
	for _, path := range []string{c.Paths.DevicePlugins, c.Paths.CDI, c.Paths.State} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{agent: a, t: t, client: client, url: "http://" + listener.Addr().String(), ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = a.run(ctx, listener)
	}()
	r.stop = func() error {
		cancel()
		<-r.ended
		return r.err
	}
	t.Cleanup(func() {
		_ = r.stop()
		_ = a.kubelet.Close()
		_ = listener.Close()
	})
	return r
}

// get is the status and text of a page.
func (r *running) get(path string) (int, string) {
	r.t.Helper()
	answer, err := http.Get(r.url + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// published waits until the scheduler sees these GPUs.
func (r *running) published(when string, check func([]gpu.Device) string) {
	r.t.Helper()
	until(r.t, when, func() string { return check(inventory.FromSlices(listSlices(r.t, r.client)).Devices) })
}

// eight says what is missing for eight GPUs, of which those with these indices are unhealthy.
func eight(sick ...int) func([]gpu.Device) string {
	return func(devices []gpu.Device) string {
		var got []int
		for _, d := range devices {
			if d.Unhealthy {
				got = append(got, d.Index)
			}
		}
		if len(devices) != 8 || !slices.Equal(got, sick) {
			return fmt.Sprintf("%d GPUs, of which %v are unhealthy, want 8 and %v", len(devices), got, sick)
		}
		return ""
	}
}

func TestAgentPublishesAndTakesBack(t *testing.T) {
	client := newCluster(yes())
	fake := newFake(t, nvmlfake.DGXH100())
	a := startAgent(t, client, fake, nil)
	a.published("the GPUs are published", eight())
	until(t, "the node is labelled", func() string {
		if got := labelsNow(t, client); got["nvidia.com/gpu.count"] != "8" || got["nvidia.com/gpu.product"] != "NVIDIA-H100-80GB-HBM3" || got["zone"] != "a" {
			return fmt.Sprint(got)
		}
		return ""
	})
	until(t, "every resource is offered", func() string {
		if _, ok := a.manager.Registered()[slot.Resource{Kind: gpu.Shared}]; !ok || len(a.manager.Registered()) != 2 {
			return fmt.Sprint(a.manager.Registered())
		}
		return ""
	})

	if code, text := a.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, text)
	}
	if code, text := a.get("/readyz"); code != http.StatusServiceUnavailable || text == "" {
		t.Errorf("/readyz: %d %q, want 503 and why: there is no kubelet", code, text)
	}
	if code, text := a.get("/metrics"); code != http.StatusOK || !strings.Contains(text, "weft_node_") {
		t.Errorf("/metrics: %d, without metrics of the node's GPUs:\n%.1000s", code, text)
	}
	code, text := a.get("/allocations")
	var got metering.Allocations
	if err := json.Unmarshal([]byte(text), &got); code != http.StatusOK || err != nil || got.Node != testNode {
		t.Errorf("/allocations: %d %v\n%s", code, err, text)
	}

	began := time.Now()
	if err := a.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %s to stop", took)
	}
	if left := listSlices(t, client); len(left) > 0 {
		t.Errorf("%d slices are left", len(left))
	}
	if diff := cmp.Diff(map[string]string{"zone": "a"}, labelsNow(t, client)); diff != "" {
		t.Errorf("labels that are left (-want +got):\n%s", diff)
	}
	sockets, err := filepath.Glob(filepath.Join(a.Paths.DevicePlugins, "*"))
	if err != nil || len(sockets) > 0 {
		t.Errorf("left in the folder of device plugins: %v, %v", sockets, err)
	}
}

func TestAgentTellsOfALostGPU(t *testing.T) {
	client := newCluster(yes())
	fake := newFake(t, nvmlfake.DGXH100())
	a := startAgent(t, client, fake, nil)
	a.published("at first", eight())
	if err := fake.Update(func(n *nvmlfake.Node) { n.GPUs[3].Lost = true }); err != nil {
		t.Fatal(err)
	}
	a.published("one is lost", eight(3))
	until(t, "an event on the Node says so", func() string {
		list, err := client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, e := range list.Items {
			if e.Reason == eventUnhealthy && e.Type == v1.EventTypeWarning && e.InvolvedObject.Kind == "Node" && strings.Contains(e.Message, "GPU 3") {
				return ""
			}
		}
		return fmt.Sprintf("%d other events", len(list.Items))
	})
	until(t, "its slots are unhealthy", func() string {
		state, _ := a.board.look()
		states := offers(state.Devices, a.handout.Book(), false)
		if n := healthyOf(states[slot.Resource{Kind: gpu.Shared}]); n != 700 {
			return fmt.Sprintf("%d are healthy", n)
		}
		return ""
	})
}

func TestAgentBesideNVIDIAsPlugin(t *testing.T) {
	client := newCluster(yes())
	before := &labeller{client: client, node: aNode()} // an agent that was killed
	if err := before.apply(t.Context(), map[string]string{"nvidia.com/gpu.count": "8"}); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, client, newFake(t, nvmlfake.DGXH100()), func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"6", "7"} })
	a.published("the GPUs are published", func(devices []gpu.Device) string {
		for _, d := range devices {
			if d.SharedOnly != (d.Index >= 6) || d.WholeOnly != (d.Index < 6) {
				return fmt.Sprintf("GPU %d: %+v", d.Index, d)
			}
		}
		return eight()(devices)
	})
	until(t, "shares are offered, and nothing else", func() string {
		if _, ok := a.manager.Registered()[slot.Resource{Kind: gpu.Shared}]; !ok || len(a.manager.Registered()) != 1 {
			return fmt.Sprint(a.manager.Registered())
		}
		return ""
	})
	until(t, "no label is ours", func() string { return cmp.Diff(map[string]string{"zone": "a"}, labelsNow(t, client)) })
}

func TestAgentWithoutNVML(t *testing.T) {
	n := nvmlfake.A30()
	n.StartError = "ERROR_DRIVER_NOT_LOADED"
	client, fake := newCluster(yes()), newFake(t, n)
	a := startAgent(t, client, fake, nil)
	until(t, "an empty slice says that the node has no GPU", func() string {
		if all := listSlices(t, client); len(all) != 1 || len(all[0].Spec.Devices) > 0 {
			return fmt.Sprintf("%d slices", len(all))
		}
		return ""
	})
	if code, text := a.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "modprobe") {
		t.Errorf("/readyz: %d %q, want 503 and what to do", code, text)
	}
	if code, _ := a.get("/healthz"); code != http.StatusOK {
		t.Error("/healthz: not ok; starting it anew would not help")
	}
	if err := fake.Update(func(n *nvmlfake.Node) { n.StartError = "" }); err != nil {
		t.Fatal(err)
	}
	a.published("once the driver is loaded", func(devices []gpu.Device) string {
		if len(devices) != 1 || devices[0].Unhealthy {
			return fmt.Sprint(devices)
		}
		return ""
	})
}

func TestAgentEndsWhenItsNodeIsReplaced(t *testing.T) {
	client := newCluster(yes())
	a := startAgent(t, client, newFake(t, nvmlfake.A30()), nil)
	a.published("published", func(devices []gpu.Device) string { return strings.Repeat("not one", 1-min(1, len(devices))) })
	if err := client.CoreV1().Nodes().Delete(t.Context(), testNode, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.ended:
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	if !errors.Is(a.err, errNodeReplaced) {
		t.Errorf("error %v, want that the Node was replaced", a.err)
	}
}

func TestRunRefusesWhatCannotWork(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := Config{
		NodeName: testNode, Client: newCluster(yes()), Mode: ModeAll, Listen: "127.0.0.1:0", Driver: DriverConfig{Root: "/"},
		Paths: PathConfig{Kubelet: "/k", DevicePlugins: "/d", CDI: "/c", State: t.TempDir()},
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a flag that is wrong":          {func(c *Config) { c.Mode = "x" }, `--mode is "x"`},
		"a port that is taken":          {func(c *Config) { c.Listen = taken.Addr().String() }, "--listen is"},
		"a state folder that is a file": {func(c *Config) { c.Paths.State = filepath.Join(file, "state") }, "--state-dir is"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			tc.change(&c)
			if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}
