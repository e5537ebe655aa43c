package handout

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/slot"
)

// gets says what each container is to find, in the order in which they start.
type gets struct{ container, gpus string }

func TestContainersGetWhatThePodWasAssigned(t *testing.T) {
	for name, tc := range map[string]struct {
		assignment string
		starts     []gets
	}{
		"a whole GPU": {"main=GPU-2", []gets{{"main", "GPU-2"}}},
		"two shares":  {"main=GPU-1:250m/20480Mi,GPU-3:250m/20480Mi", []gets{{"main", "GPU-1:250m/20480Mi,GPU-3:250m/20480Mi"}}},
		"several containers": {
			"a=GPU-0:300m/1000Mi;b=GPU-0:500m/1000Mi;c=GPU-1",
			[]gets{{"c", "GPU-1"}, {"a", "GPU-0:300m/1000Mi"}, {"b", "GPU-0:500m/1000Mi"}},
		},
		"several resources: every one of the container's names stands for all of it": {
			"main=GPU-1,GPU-M:1g.10gb@0:1,GPU-M:1g.10gb@2:1,GPU-M:3g.40gb@4:4",
			[]gets{{"main", "GPU-1,GPU-M:1g.10gb@0:1,GPU-M:1g.10gb@2:1,GPU-M:3g.40gb@4:4"}},
		},
		"an init container that had the slots of the container after it": {
			"~init=GPU-1;main=GPU-2", []gets{{"init", "GPU-1"}, {"main", "GPU-2"}},
		},
		"an init container that had more slots than the container after it": {
			"~init=GPU-1,GPU-2;main=GPU-2", []gets{{"init", "GPU-1,GPU-2"}, {"main", "GPU-2"}},
		},
		"init containers, a sidecar between them, and a container": {
			"~first=GPU-0;sidecar=GPU-1:100m/10Mi;~second=GPU-0,GPU-2;main=GPU-0,GPU-2",
			[]gets{
				{"first", "GPU-0"},
				{"sidecar", "GPU-1:100m/10Mi"},
				{"second", "GPU-0,GPU-2"},
				{"main", "GPU-0,GPU-2"},
				{"sidecar", "GPU-1:100m/10Mi"},
				{"main", "GPU-0,GPU-2"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.bind("uid-other", "other", "main=GPU-3:100m/10Mi")
				w.mustStart("uid-other", "main", "GPU-3:100m/10Mi")
				w.bind("uid", "pod", tc.assignment)
				for _, s := range tc.starts {
					w.mustStart("uid", s.container, s.gpus)
				}
				if err := w.check(); err != nil {
					t.Error(err)
				}
				released, err := w.h.Collect(quiet)
				if err != nil || len(released) > 0 {
					t.Errorf("of live pods there was released %v, %v", released, err)
				}
				w.reopen()
				for _, s := range tc.starts {
					w.mustStart("uid", s.container, s.gpus)
				}
				if err := w.clean(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestRefused(t *testing.T) {
	lost := errors.New("GPU-1 is lost")
	unassigned := func(err error) func(*world) {
		return func(w *world) {
			w.bind("uid", "pod", "main=GPU-1")
			w.api.set(slot.Pod{UID: "uid", Namespace: "ns", Name: "pod", Err: err})
		}
	}
	assigned := func(assignment string) func(*world) {
		return func(w *world) {
			w.bind("uid", "pod", "main=GPU-1")
			w.api.set(podOf("uid", "pod", assignment))
		}
	}
	for name, tc := range map[string]struct {
		do    func(w *world)
		err   error
		says  []string
		waits bool
		keeps []string
		// started: the container has started before.
		started bool
		passes  func(w *world)
	}{
		"a pod without an assignment": {
			do: unassigned(podspec.ErrNoAssignment), err: slot.ErrUnassigned, says: []string{"ns/pod", `"main"`, podspec.AnnotationGPUs},
		},
		"a pod with an assignment that cannot be believed": {
			do: unassigned(gpu.ErrMalformed), err: slot.ErrUnassigned, says: []string{"malformed"},
		},
		"a pod whose assignment is for another container": {do: assigned("other=GPU-1"), err: slot.ErrUnassigned, says: []string{`"main"`, "other=GPU-1"}},
		"a pod whose assignment is worth more":            {do: assigned("main=GPU-1,GPU-2"), err: slot.ErrUnassigned, says: []string{"main=GPU-1,GPU-2"}},
		"a pod whose assignment is of another kind":       {do: assigned("main=GPU-1:100m/10Mi"), err: slot.ErrUnassigned, says: []string{"GPU-1:100m/10Mi"}},
		"a pod whose assignment is of another node":       {do: assigned("main=GPU-elsewhere"), err: slot.ErrElsewhere, says: []string{"GPU-elsewhere", "node-a"}},
		"a pod whose assignment was changed after it was used": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.mustStart("uid", "main", "GPU-1")
				w.api.set(podOf("uid", "pod", "main=GPU-2"))
			},
			err: slot.ErrUnassigned, says: []string{"main=GPU-1", "main=GPU-2"}, keeps: []string{"uid/main GPU-1"}, started: true,
		},
		"a pod that is over": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				p := w.api.get("uid")
				p.Over = true
				w.api.set(p)
			},
			err: errOver,
		},
		"a container whose GPU is lost": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.broken["GPU-1"] = lost
			},
			err: lost, says: []string{"ns/pod", `"main"`}, keeps: []string{"uid/main GPU-1"},
			passes: func(w *world) { delete(w.broken, "GPU-1") },
		},
		"a container with shares of several GPUs that MPS keeps apart": {
			do: func(w *world) {
				w.devices[0].Isolation, w.devices[1].Isolation = gpu.IsolationMPS, gpu.IsolationMPS
				w.bind("uid", "pod", "main=GPU-0:100m/10Mi,GPU-1:100m/10Mi")
			},
			err: slot.ErrIsolation,
		},
		"a container that another device plugin allocated for": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.kubelet.claims[0].Name = ""
			},
			err: slot.ErrForeign, says: []string{"another device plugin"},
		},
		"a container of a CDI device that cannot be ours": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.kubelet.claims[0].Name = "../../etc/passwd"
			},
			err: slot.ErrForeign, says: []string{"../../etc/passwd"},
		},
		"a pod that the API server never shows": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.api.remove("uid")
			},
			err: errNoPod, says: []string{"uid"}, waits: true,
			passes: func(w *world) { w.api.set(podOf("uid", "pod", "main=GPU-1")) },
		},
		"a GPU that is held whole": {
			do: func(w *world) {
				w.bind("uid-h", "holder", "main=GPU-1")
				w.mustStart("uid-h", "main", "GPU-1")
				w.bind("uid", "pod", "main=GPU-1")
			},
			err: slot.ErrHeld, says: []string{"GPU-1", "ns/holder"}, waits: true, keeps: []string{"uid-h/main GPU-1"},
			passes: func(w *world) { w.over("uid-h") },
		},
		"a GPU that is shared already": {
			do: func(w *world) {
				w.bind("uid-h", "holder", "main=GPU-1:600m/10Mi")
				w.mustStart("uid-h", "main", "GPU-1:600m/10Mi")
				w.bind("uid", "pod", "main=GPU-1:500m/10Mi")
			},
			err: slot.ErrHeld, says: []string{"GPU-1", "ns/holder", "110%"}, waits: true, keeps: []string{"uid-h/main GPU-1:600m/10Mi"},
			passes: func(w *world) { w.over("uid-h") },
		},
		"a MIG instance that overlaps another": {
			do: func(w *world) {
				w.bind("uid-h", "holder", "main=GPU-M:1g.10gb@3:1")
				w.mustStart("uid-h", "main", "GPU-M:1g.10gb@3:1")
				w.bind("uid", "pod", "main=GPU-M:3g.40gb@0:4")
			},
			err: slot.ErrHeld, says: []string{"GPU-M", "ns/holder"}, waits: true, keeps: []string{"uid-h/main GPU-M:1g.10gb@3:1"},
			passes: func(w *world) { w.over("uid-h") },
		},
		"a container on a node whose GPUs are not known yet": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.devices, w.found = nil, w.devices
			},
			err: errNoGPUs, waits: true,
			passes: func(w *world) { w.devices = w.found },
		},
		"a GPU that is unhealthy": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.devices[1].Unhealthy = true
			},
			err: slot.ErrHeld, says: []string{"no healthy GPU GPU-1"}, waits: true,
			passes: func(w *world) { w.devices[1].Unhealthy = false },
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				tc.do(w)
				before := time.Now()
				_, err := w.start("uid", "main")
				if !errors.Is(err, tc.err) {
					t.Fatalf("error %v, want %v", err, tc.err)
				}
				for _, s := range tc.says {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("error %q does not say %q", err, s)
					}
				}
				if waited := time.Since(before); tc.waits && waited != patience || !tc.waits && waited != 0 {
					t.Errorf("waited %v", waited)
				}
				if diff := cmp.Diff(tc.keeps, w.holders()); diff != "" {
					t.Errorf("holders: -want +got\n%s", diff)
				}
				for _, c := range w.kubelet.of("uid", "main") {
					if _, err := w.create([]string{device(c.Name)}); err == nil && !tc.started {
						t.Error("the container can be made")
					}
				}
				if tc.passes != nil {
					tc.passes(w)
					if _, err := w.start("uid", "main"); err != nil {
						t.Errorf("then: %v", err)
					}
				}
				if err := w.check(); err != nil {
					t.Error(err)
				}
				if err := w.clean(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAContainerThatTheKubeletDoesNotKnow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		before := time.Now()
		err := w.h.PreStart(quiet, slot.Resource{Kind: gpu.Whole}, []string{"gpu-77", "gpu-78"})
		if !errors.Is(err, slot.ErrNoOwner) || !strings.Contains(err.Error(), "2 slots of gpu, the first gpu-77") {
			t.Error(err)
		}
		if waited := time.Since(before); waited != patience {
			t.Errorf("waited %v", waited)
		}
		// Whoever gives it less time gets the reason in time.
		ctx, cancel := context.WithTimeout(quiet, 5*time.Second)
		defer cancel()
		if err := w.h.PreStart(ctx, slot.Resource{Kind: gpu.Whole}, []string{"gpu-77"}); !errors.Is(err, slot.ErrNoOwner) || ctx.Err() != nil {
			t.Errorf("%v, after the time was %v", err, ctx.Err())
		}
	})
}

func TestWaitingEndsAsSoonAsTheReasonDoes(t *testing.T) {
	for name, tc := range map[string]struct {
		do, passes func(w *world)
		// within is how long after that the container starts, at most.
		within time.Duration
	}{
		"a GPU is held until its pod is over": {
			do: func(w *world) {
				w.bind("uid-h", "holder", "main=GPU-1")
				w.mustStart("uid-h", "main", "GPU-1")
				w.bind("uid", "pod", "main=GPU-1")
			},
			passes: func(w *world) { w.over("uid-h") },
		},
		"a GPU is held until its pod, deleted by force, is unknown to the kubelet": {
			do: func(w *world) {
				w.bind("uid-h", "holder", "main=GPU-1")
				w.mustStart("uid-h", "main", "GPU-1")
				w.bind("uid", "pod", "main=GPU-1")
				w.api.remove("uid-h")
			},
			passes: func(w *world) {
				w.kubelet.end("uid-h")
				p := podOf("uid-next", "next", "main=GPU-2")
				if err := w.kubelet.admit(w.h, p, p.Assignment); err != nil { // writes the checkpoint
					w.t.Error(err)
				}
			},
			within: asking,
		},
		"a pod is not shown yet": {
			do: func(w *world) {
				w.api.stall(true)
				w.bind("uid", "pod", "main=GPU-1")
			},
			passes: func(w *world) { w.api.stall(false) },
		},
		"the kubelet is silent": {
			do: func(w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.kubelet.noCheckpoint, w.kubelet.silent = true, true
			},
			passes: func(w *world) {
				w.kubelet.mu.Lock()
				defer w.kubelet.mu.Unlock()
				w.kubelet.noCheckpoint = false
			},
			within: asking,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				tc.do(w)
				var passed time.Time
				done := make(chan error)
				go func() {
					gpus, err := w.start("uid", "main")
					if err == nil && gpus != "GPU-1" {
						err = errors.New("it has " + gpus)
					}
					if waited := time.Since(passed); err == nil && waited > tc.within {
						err = errors.New("it waited for " + waited.String())
					}
					done <- err
				}()
				time.Sleep(10*time.Second + asking/2)
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("did not wait: %v", err)
				default:
				}
				passed = time.Now()
				tc.passes(w)
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := w.kubelet.asks; n > 13 {
					t.Errorf("the kubelet was asked %d times in 11 s", n)
				}
				if err := w.check(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A pod is deleted and created again under its name while the watch still shows the old one.
func TestAPodOfTheSameName(t *testing.T) {
	for name, tc := range map[string]struct {
		noCheckpoint bool
	}{
		"is known by its UID":                             {},
		"is asked for where the kubelet knows only names": {noCheckpoint: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.bind("uid-old", "pod", "main=GPU-1")
				w.mustStart("uid-old", "main", "GPU-1")
				w.api.stall(true)
				w.gone("uid-old")
				time.Sleep(time.Second)
				w.bind("uid-new", "pod", "main=GPU-2")
				w.kubelet.noCheckpoint = tc.noCheckpoint
				if gpus, err := w.start("uid-new", "main"); !errors.Is(err, errNoPod) {
					t.Errorf("while the watch is late it has %q, %v", gpus, err)
				}
				if diff := cmp.Diff([]string{"uid-old/main GPU-1"}, w.holders()); diff != "" {
					t.Errorf("holders: -want +got\n%s", diff)
				}
				w.api.stall(false)
				w.mustStart("uid-new", "main", "GPU-2")
				// A restart needs no guess any more.
				gets := w.api.gets
				w.mustStart("uid-new", "main", "GPU-2")
				if w.api.gets != gets || tc.noCheckpoint && gets == 0 {
					t.Errorf("the API server was asked %d times before, %d times after", gets, w.api.gets)
				}
				w.kubelet.noCheckpoint = false
				if err := w.clean(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What decides is the watch, the API server and the kubelet together, where there is no UID.
func TestOnlyANameIsNotEnough(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"two pods of the name are shown": func(w *world) {
			w.api.live["uid-2"] = podOf("uid-2", "pod", "main=GPU-2")
			w.api.stall(false)
		},
		"not all pods are shown": func(w *world) { w.api.synced(false) },
		"the API server has another one": func(w *world) {
			w.api.stall(true)
			w.api.remove("uid")
			w.api.set(podOf("uid-2", "pod", "main=GPU-2"))
		},
		"the API server has none": func(w *world) {
			w.api.stall(true)
			w.api.remove("uid")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.bind("uid", "pod", "main=GPU-1")
				w.kubelet.noCheckpoint = true
				do(w)
				if gpus, err := w.start("uid", "main"); !errors.Is(err, errNoPod) {
					t.Errorf("it has %q, %v", gpus, err)
				}
				if len(w.holders()) > 0 || len(w.files("cdi")) > 0 {
					t.Errorf("bound: %s, %s", w.holders(), w.files("cdi"))
				}
			})
		})
	}
}

// Two containers had the same slots, and one of them cannot be told what it has.
func TestOneOfTheOwnersIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		lost := errors.New("GPU-1 is lost")
		w.bind("uid", "pod", "~init=GPU-1;main=GPU-2")
		w.mustStart("uid", "init", "GPU-1")
		if n := len(w.files("cdi")); n != 2 {
			t.Fatalf("%d specifications, want those of both", n)
		}
		w.broken["GPU-1"] = lost
		w.mustStart("uid", "main", "GPU-2")
		if gpus, err := w.start("uid", "init"); err == nil || !strings.Contains(err.Error(), "unresolvable") {
			t.Errorf("the init container has %q, %v; want that the runtime refuses it", gpus, err)
		}
		w.broken["GPU-2"] = lost
		if _, err := w.start("uid", "main"); !errors.Is(err, lost) {
			t.Errorf("error %v, want %v", err, lost)
		}
		if f := w.files("cdi"); len(f) > 0 {
			t.Errorf("containers that are refused have %s", f)
		}
		clear(w.broken)
		w.mustStart("uid", "init", "GPU-1")
		w.mustStart("uid", "main", "GPU-2")
		// Nor where the assignment names nothing for one of them.
		w.bind("uid-3", "pod-3", "~init=GPU-3;main=GPU-3")
		w.api.set(podOf("uid-3", "pod-3", "main=GPU-3"))
		w.mustStart("uid-3", "main", "GPU-3")
		if gpus, err := w.start("uid-3", "init"); err == nil || !strings.Contains(err.Error(), "unresolvable") {
			t.Errorf("the init container has %q, %v; want that the runtime refuses it", gpus, err)
		}
		// A specification that cannot be removed is a reason to refuse all.
		w.disk.err = os.ErrPermission
		w.broken["GPU-1"] = lost
		w.disk.fault = func(_ int, op, _ string) effect {
			if op == "remove" {
				return fails
			}
			return works
		}
		if _, err := w.start("uid", "main"); !errors.Is(err, os.ErrPermission) {
			t.Errorf("error %v although the specification of the other is still there", err)
		}
	})
}
