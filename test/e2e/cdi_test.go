//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

func TestContainerGetsWhatItsCDISpecSays(t *testing.T) {
	e := start(t)
	plugin := e.startPlugin(2)
	p := thingPod("cdi")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	e.create(p)
	uid := e.running("cdi").UID
	r := e.report("cdi", "main", false)
	if r.Env["THING"] != plugin.given[0] || r.Env["STARTS"] != "1" || !slices.Contains(r.Devices, "/dev/thing") {
		t.Errorf("got %+v", r)
	}

	// Both of the kubelet's records name the pod: the one for others to ask, and its own.
	conn, err := grpc.NewClient("unix://"+podResourcesSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	e.must(err)
	defer conn.Close()
	listed, err := podresources.NewPodResourcesListerClient(conn).Get(t.Context(),
		&podresources.GetPodResourcesRequest{PodName: "cdi", PodNamespace: "default"})
	e.must(err)
	if got := fmt.Sprint(listed.PodResources.Containers[0].Devices); !strings.Contains(got, things) {
		t.Errorf("the kubelet lists %s, want %s", got, things)
	}
	entries, err := checkpoint()
	e.must(err)
	if len(entries) != 1 || entries[0].PodUID != string(uid) || entries[0].ResourceName != things {
		t.Errorf("the kubelet's checkpoint holds %+v, want one entry of pod %s", entries, uid)
	}

	// A container that starts again is prepared again, under the same name.
	e.signal("cdi", "main", syscall.SIGTERM)
	e.restarted("cdi", "main", 1)
	if r := e.report("cdi", "main", false); r.Env["THING"] != plugin.given[0] || r.Env["STARTS"] != "2" {
		t.Errorf("started again: got %+v", r)
	}
}

// containerd learns of a spec by a notification, so it may not know one yet that is a few milliseconds old; the kubelet
// then tries again and nothing is lost.
func TestEachOfManyContainersGetsItsOwn(t *testing.T) {
	const pods = 16
	e := start(t)
	plugin := e.startPlugin(pods)
	for i := range pods {
		e.create(thingPod(fmt.Sprintf("one-of-%d", i)))
	}
	owner := map[string]string{}
	for i := range pods {
		name := fmt.Sprintf("one-of-%d", i)
		e.running(name)
		thing := e.report(name, "main", false).Env["THING"]
		if other, taken := owner[thing]; taken || thing == "" {
			t.Errorf("%s has %q, which %q has", name, thing, other)
		}
		owner[thing] = name
	}
	plugin.mu.Lock()
	defer plugin.mu.Unlock()
	var prepared int
	for _, n := range plugin.starts {
		prepared += n
	}
	t.Logf("%d containers were prepared %d times", pods, prepared)
}
