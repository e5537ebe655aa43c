//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/playground"
)

// patience is how long anything may take that takes seconds on an idle machine.
const patience = 3 * time.Minute

// report is what the workload writes about its container.
type report struct {
	Args    []string          `json:"args"`
	Env     map[string]string `json:"env"`
	Devices []string          `json:"devices"`
}

// newPod is a pod for Weft with the containers, which are not restarted.
func newPod(name string, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.PodSpec{
			SchedulerName: playground.SchedulerName,
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    containers,
		},
	}
}

// newContainer is a container with the workload and its arguments.
func newContainer(name string, args ...string) corev1.Container {
	return corev1.Container{Name: name, Image: workloadImage, Args: args}
}

// create creates the pod, which is removed at the end of the test.
func (e *env) create(p *corev1.Pod) *corev1.Pod {
	e.t.Helper()
	created, err := e.client.CoreV1().Pods(p.Namespace).Create(e.t.Context(), p, metav1.CreateOptions{})
	e.must(err)
	e.pods[p.Name] = created
	// All at once, and before what was started earlier than the pod ends; what is left for the later ones is nothing.
	e.t.Cleanup(func() { e.remove(slices.Collect(maps.Keys(e.pods))...) })
	return created
}

// pod is the pod as it is now.
func (e *env) pod(name string) *corev1.Pod {
	e.t.Helper()
	p, err := e.client.CoreV1().Pods(metav1.NamespaceDefault).Get(e.t.Context(), name, metav1.GetOptions{})
	e.must(err)
	return p
}

// eventually waits until the condition holds, for at most patience; it returns "" for that, else what is still missing.
// When it gives up, or a component ended by itself, the test fails, and tells what happened to the named pods.
func (e *env) eventually(condition func() (missing string), pods ...string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	err := e.poll(ctx, condition)
	if err == nil {
		return
	}
	for _, name := range pods {
		e.t.Logf("pod %s:\n%s", name, e.story(name))
	}
	e.t.Fatal(err)
}

// phase waits until the pod is in the phase.
func (e *env) phase(name string, want corev1.PodPhase) *corev1.Pod {
	e.t.Helper()
	var p *corev1.Pod
	e.eventually(func() string {
		p = e.pod(name)
		if p.Status.Phase != want {
			return fmt.Sprintf("pod %s is %s, want %s", name, p.Status.Phase, want)
		}
		return ""
	}, name)
	return p
}

// running waits until every container of the pod runs.
func (e *env) running(name string) *corev1.Pod {
	e.t.Helper()
	var p *corev1.Pod
	e.eventually(func() string {
		p = e.pod(name)
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running == nil {
				return fmt.Sprintf("container %s of pod %s does not run: %+v", s.Name, name, s.State)
			}
		}
		if len(p.Status.ContainerStatuses) < len(p.Spec.Containers) {
			return fmt.Sprintf("pod %s has not started", name)
		}
		return ""
	}, name)
	return p
}

// report is what the container wrote when it started last, or with previous the time before.
func (e *env) report(name, container string, previous bool) (r report) {
	e.t.Helper()
	logs := e.client.CoreV1().Pods(metav1.NamespaceDefault).
		GetLogs(name, &corev1.PodLogOptions{Container: container, Previous: previous})
	// A container runs before it has written anything.
	e.eventually(func() string {
		data, err := logs.DoRaw(e.t.Context())
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			return fmt.Sprintf("output of container %s of pod %s: %v: %q", container, name, err, data)
		}
		return ""
	}, name)
	return r
}

// signal sends a signal to the processes of the container.
func (e *env) signal(name, container string, sig syscall.Signal) {
	e.t.Helper()
	for _, s := range e.pod(name).Status.ContainerStatuses {
		if s.Name != container {
			continue
		}
		_, id, _ := strings.Cut(s.ContainerID, "://")
		pids, err := inCgroups(id)
		if err != nil || len(pids) == 0 {
			e.t.Fatalf("container %s of pod %s, %s: %d processes, %v", container, name, s.ContainerID, len(pids), err)
		}
		for pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil {
				e.t.Fatalf("container %s of pod %s, process %d: %v", container, name, pid, err)
			}
		}
		return
	}
	e.t.Fatalf("pod %s has no container %s", name, container)
}

// remove deletes the pods and waits until the kubelet has let go of them.
func (e *env) remove(names ...string) {
	e.t.Helper()
	// It also cleans up after a test, whose context is then over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.t.Context()), patience)
	defer cancel()
	pods := e.client.CoreV1().Pods(metav1.NamespaceDefault)
	for _, name := range names {
		err := pods.Delete(ctx, name, *metav1.NewDeleteOptions(2))
		if err != nil && !apierrors.IsNotFound(err) {
			e.t.Fatal(err)
		}
	}
	for _, name := range names {
		err := e.poll(ctx, func() string {
			p, err := pods.Get(ctx, name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				return ""
			case err != nil:
				return err.Error()
			}
			return fmt.Sprintf("pod %s is still there: %+v", name, p.Status)
		})
		e.must(err)
		delete(e.pods, name)
	}
}

// events are the events of a pod that the test created, oldest first, as "reason: message".
func (e *env) events(name string) []string {
	e.t.Helper()
	list, err := e.client.CoreV1().Events(metav1.NamespaceDefault).List(e.t.Context(), metav1.ListOptions{
		FieldSelector: "involvedObject.uid=" + string(e.pods[name].UID),
	})
	e.must(err)
	var out []string
	for _, event := range list.Items {
		text := event.Reason + ": " + event.Message
		if event.Count > 1 {
			text += fmt.Sprintf(" (%d times)", event.Count)
		}
		out = append(out, text)
	}
	return out
}

// story is what a person would ask about a pod: its status and its events.
func (e *env) story(name string) string {
	e.t.Helper()
	p, err := e.client.CoreV1().Pods(metav1.NamespaceDefault).Get(e.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	status, err := json.MarshalIndent(p.Status, "", " ")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("node %q, annotations %v, status %s\nevents:\n  %s",
		p.Spec.NodeName, p.Annotations, status, strings.Join(e.events(name), "\n  "))
}
