//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// things is the resource of the plugin.
const things = "e2e.weft.sh/thing"

// plugin is the least device plugin that binds late: it answers Allocate with a CDI name that no other answer has, and
// writes the spec that explains the name in PreStartContainer.
type plugin struct {
	pluginapi.UnimplementedDevicePluginServer
	slots int
	stop  chan struct{}

	mu sync.Mutex
	// given are the CDI names in their order, and names the last of each slot.
	given []string
	names map[string]string
	// starts are the calls of PreStartContainer for a name.
	starts map[string]int
}

// startPlugin starts the plugin and returns when the node offers its slots. It does not register again with a kubelet that
// was started again.
func (e *env) startPlugin(slots int) *plugin {
	e.t.Helper()
	p := &plugin{slots: slots, stop: make(chan struct{}), names: map[string]string{}, starts: map[string]int{}}
	e.must(os.MkdirAll(cdiDir, 0o755))
	socket := filepath.Join(devicePluginDir, "thing.sock")
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	e.must(err)
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, p)
	go server.Serve(listener) //nolint:errcheck // it ends with Stop
	e.t.Cleanup(func() {
		close(p.stop)
		server.Stop()
	})
	conn, err := grpc.NewClient("unix://"+pluginapi.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	e.must(err)
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(e.t.Context(), &pluginapi.RegisterRequest{
		Version: pluginapi.Version, Endpoint: filepath.Base(socket), ResourceName: things,
		Options: &pluginapi.DevicePluginOptions{PreStartRequired: true},
	})
	e.must(err)
	e.eventually(func() string {
		n, err := e.client.CoreV1().Nodes().Get(e.t.Context(), nodeName, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if got := n.Status.Allocatable[things]; got.Value() != int64(slots) {
			return fmt.Sprintf("the node has %v %s, want %d", got.String(), things, slots)
		}
		return ""
	})
	return p
}

func (p *plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{PreStartRequired: true}, nil
}

func (p *plugin) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	var out pluginapi.ListAndWatchResponse
	for i := range p.slots {
		out.Devices = append(out.Devices, &pluginapi.Device{ID: fmt.Sprintf("slot-%d", i), Health: pluginapi.Healthy})
	}
	if err := stream.Send(&out); err != nil {
		return err
	}
	select {
	case <-p.stop:
	case <-stream.Context().Done():
	}
	return nil
}

func (p *plugin) Allocate(_ context.Context, in *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out pluginapi.AllocateResponse
	for _, c := range in.ContainerRequests {
		// A name is never used again, not by another plugin either: containerd might still know what it meant before.
		name := "given-" + string(uuid.NewUUID())
		p.given = append(p.given, name)
		for _, id := range c.DevicesIds {
			p.names[id] = name
		}
		out.ContainerResponses = append(out.ContainerResponses, &pluginapi.ContainerAllocateResponse{
			CdiDevices: []*pluginapi.CDIDevice{{Name: things + "=" + name}},
		})
	}
	return &out, nil
}

func (p *plugin) PreStartContainer(_ context.Context, in *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := p.names[in.DevicesIds[0]]
	p.starts[name]++
	spec, err := json.Marshal(map[string]any{
		"cdiVersion": "0.6.0", "kind": things,
		"devices": []any{map[string]any{"name": name, "containerEdits": map[string]any{
			"env":         []string{"THING=" + name, fmt.Sprintf("STARTS=%d", p.starts[name])},
			"deviceNodes": []any{map[string]any{"path": "/dev/thing", "hostPath": "/dev/null"}},
		}}},
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(cdiDir, "thing-"+name+".json")
	if err := os.WriteFile(file+".tmp", spec, 0o644); err != nil {
		return nil, err
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return nil, err
	}
	return &pluginapi.PreStartContainerResponse{}, nil
}

// thingPod is a pod whose one container has one slot.
func thingPod(name string) *corev1.Pod {
	c := newContainer("main")
	c.Resources.Limits = corev1.ResourceList{things: resource.MustParse("1")}
	return newPod(name, c)
}
