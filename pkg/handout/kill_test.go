package handout

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weft.sh/weft/pkg/slot"
)

// step is a container and what it gets.
type step struct{ uid, container, gpus string }

// interrupted is something that the agent does with files, to be interrupted at each of them.
type interrupted struct {
	prepare func(w *world)
	// act is done with faults; an error is what the kubelet or the agent's own loop sees.
	act func(w *world) error
	// allocates is the pod that act admits. One that is not admitted has failed for good, and the same is created again.
	allocates string
	// loses: there is no book at first.
	loses bool
	// then are the starts that must succeed afterwards, in this order.
	then []step
}

func interruptions() map[string]interrupted {
	start := func(uid, container string) func(w *world) error {
		return func(w *world) error { _, err := w.start(uid, container); return err }
	}
	admit := func(uid, assignment string) func(w *world) error {
		return func(w *world) error {
			p := podOf(uid, uid, assignment)
			w.api.set(p)
			return w.kubelet.admit(w.h, p, p.Assignment)
		}
	}
	running := func(w *world, uid, gpus string) {
		w.bind(uid, uid, "main="+gpus)
		w.mustStart(uid, "main", gpus)
	}
	return map[string]interrupted{
		"Allocate": {
			prepare:   func(w *world) { running(w, "old", "GPU-0") },
			act:       admit("a", "main=GPU-1"),
			allocates: "a",
			then:      []step{{"old", "main", "GPU-0"}, {"a", "main", "GPU-1"}},
		},
		"Allocate for the second of two containers": {
			prepare:   func(w *world) { running(w, "old", "GPU-0") },
			act:       admit("a", "one=GPU-1;two=GPU-2,GPU-M:1g.10gb@0:1"),
			allocates: "a",
			then:      []step{{"a", "one", "GPU-1"}, {"a", "two", "GPU-2,GPU-M:1g.10gb@0:1"}},
		},
		"the first start of a container": {
			prepare: func(w *world) { w.bind("a", "a", "main=GPU-1:100m/10Mi") },
			act:     start("a", "main"),
			then:    []step{{"a", "main", "GPU-1:100m/10Mi"}},
		},
		"the first start of a container with two resources": {
			prepare: func(w *world) { w.bind("a", "a", "main=GPU-1,GPU-M:1g.10gb@0:1") },
			act:     start("a", "main"),
			then:    []step{{"a", "main", "GPU-1,GPU-M:1g.10gb@0:1"}},
		},
		"a start that tells two containers": {
			prepare: func(w *world) { w.bind("a", "a", "~init=GPU-1;main=GPU-2") },
			act:     start("a", "init"),
			then:    []step{{"a", "init", "GPU-1"}, {"a", "main", "GPU-2"}},
		},
		"a start on the GPU of a pod that is over": {
			prepare: func(w *world) {
				running(w, "old", "GPU-1")
				w.over("old")
				w.bind("a", "a", "main=GPU-1")
			},
			act:  start("a", "main"),
			then: []step{{"a", "main", "GPU-1"}},
		},
		"a container starts again": {
			prepare: func(w *world) { running(w, "a", "GPU-1") },
			act:     start("a", "main"),
			then:    []step{{"a", "main", "GPU-1"}},
		},
		"the start of a container whose record was not written down": {
			prepare: func(w *world) {
				w.disk.fault = func(int, string, string) effect { return fails }
				w.bind("a", "a", "main=GPU-1")
				w.reopen()
			},
			act:  start("a", "main"),
			then: []step{{"a", "main", "GPU-1"}},
		},
		"Collect": {
			prepare: func(w *world) {
				running(w, "a", "GPU-0")
				running(w, "b", "GPU-1")
				running(w, "c", "GPU-2")
				w.over("b")
				w.gone("c")
				w.bind("d", "d", "main=GPU-1")
				stale, err := specification("stale", nil, slot.Surroundings{Env: []string{"STALE=1"}})
				err = errors.Join(err, os.WriteFile(w.h.file("stale"), stale, 0o600), os.WriteFile(w.h.file("stale")+unfinished, nil, 0o600))
				if err != nil {
					w.t.Fatal(err)
				}
			},
			act:  func(w *world) error { _, err := w.h.Collect(quiet); return err },
			then: []step{{"a", "main", "GPU-0"}, {"d", "main", "GPU-1"}},
		},
		"a start of the agent": {
			prepare: func(w *world) { running(w, "a", "GPU-0") },
			act:     func(w *world) error { return w.open(w.disk.fault) },
			then:    []step{{"a", "main", "GPU-0"}},
		},
		"rebuilding a book that is broken": {
			loses: true,
			prepare: func(w *world) {
				running(w, "a", "GPU-0")
				w.bind("b", "b", "main=GPU-1")
				if err := os.WriteFile(w.path("state", "checkpoint.json"), []byte("{"), 0o600); err != nil {
					w.t.Fatal(err)
				}
			},
			act: func(w *world) error {
				if err := w.open(w.disk.fault); err != nil {
					return err
				}
				_, err := w.h.Collect(quiet)
				return err
			},
			then: []step{{"b", "main", "GPU-1"}, {"a", "main", "GPU-0"}},
		},
	}
}

// memoryDir is a folder of real files, on a tmpfs where there is one: a thousand worlds make a file some ten times each.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "handout")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// run does the scenario in a new world, up to and with what is interrupted.
func (s interrupted) run(t *testing.T, fault func(int, string, string) effect) (*world, error) {
	w := newWorld(t, memoryDir(t))
	s.prepare(w)
	w.disk.mu.Lock()
	w.disk.n, w.disk.fault = 0, fault
	w.disk.mu.Unlock()
	return w, s.act(w)
}

// settle is what the kubelet and the owner of the pod do when Allocate was not answered. The answer to the last may have arrived.
func (s interrupted) settle(w *world, answered bool) {
	if s.allocates == "" || answered {
		return
	}
	p := w.api.get(s.allocates)
	p.Over = true
	w.api.set(p)
	w.kubelet.end(p.UID)
	w.kubelet.mu.Lock()
	w.kubelet.claims = slices.DeleteFunc(w.kubelet.claims, func(c slot.Claim) bool { return c.UID == p.UID })
	w.kubelet.mu.Unlock()
	again := p
	again.UID, again.Name, again.Over = "again", "again", false
	w.api.set(again)
	if err := w.kubelet.admit(w.h, again, again.Assignment); err != nil {
		w.t.Fatal(err)
	}
}

// found is what is wrong with what an agent finds when it starts. Whatever container was made has a specification, so that must have a
// bound record, and the book must be whole.
func (s interrupted) found(w *world) error {
	if s.loses {
		return nil
	}
	if files := w.files("state"); slices.Contains(files, "checkpoint.json.broken") {
		return fmt.Errorf("the book was torn: %s", files)
	}
	for _, c := range w.kubelet.says(quiet).Checkpoint {
		if p := w.api.get(c.UID); p.UID == "" || p.Over || !slices.Contains(w.files("cdi"), filePrefix+c.Name+fileSuffix) {
			continue
		}
		if r, ok := w.h.Book().Find(c.Name); !ok || r.Holder == nil || r.Holder.UID != c.UID {
			return fmt.Errorf("container %s of %s can be made, but its record is %+v", c.Container, c.UID, r)
		}
	}
	return nil
}

// finish does what is left to do: everything starts, and is as it should be.
func (s interrupted) finish(w *world) error {
	for _, st := range s.then {
		if w.api.get(st.uid).Over {
			st.uid = "again"
		}
		got, err := w.start(st.uid, st.container)
		if err != nil {
			return err
		}
		if got != st.gpus {
			return fmt.Errorf("container %s of %s has %s, want %s", st.container, st.uid, got, st.gpus)
		}
	}
	if err := w.check(); err != nil {
		return err
	}
	time.Sleep(slot.Grace + time.Second)
	if _, err := w.h.Collect(quiet); err != nil {
		return err
	}
	// What the kubelet has for live pods is what the book has, and what of that has started has a specification.
	want, specs := map[string]bool{}, map[string]bool{}
	for _, c := range w.kubelet.says(quiet).Checkpoint {
		if p := w.api.get(c.UID); p.UID != "" && !p.Over {
			want[c.Name] = true
		}
	}
	got := map[string]bool{}
	for _, r := range w.h.Book().Records {
		got[r.Name] = true
		if r.Holder != nil {
			specs[filePrefix+r.Name+fileSuffix] = true
		}
	}
	if !maps.Equal(want, got) {
		return fmt.Errorf("the kubelet has %v, the book %v", want, got)
	}
	if files := w.files("cdi"); !slices.Equal(files, slices.Sorted(maps.Keys(specs))) {
		return fmt.Errorf("there are the specifications %s, want %v", files, specs)
	}
	return w.clean()
}

// death is where the agent is killed: before an operation, or in the middle of it, where it is a write.
type death struct {
	n    int
	torn bool
}

func (d death) fault(i int, op, _ string) effect {
	switch {
	case i != d.n:
		return works
	case !d.torn:
		return dieBefore
	case op == "write":
		return dieTorn
	}
	return works
}

// The agent is killed before and after every operation on files, and in the middle of writing; and again at every operation of what
// the next one does.
func TestKilledAtEveryPoint(t *testing.T) {
	for name, s := range interruptions() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, err := s.run(t, nil)
				if err != nil {
					t.Fatal(err)
				}
				operations, ways := w.disk.n, 0
				for n := range operations + 1 { // the last is before it can answer
					for _, first := range []death{{n, false}, {n, true}} {
						for m := -1; ; m++ { // -1 is not killed again
							w, err := s.run(t, first.fault)
							if first.torn && !w.disk.killed() {
								break // is no write
							}
							again := false
							if m >= 0 {
								if w.open(death{m, false}.fault) == nil {
									_, _ = w.h.Collect(quiet)
									for _, st := range s.then {
										_, _ = w.start(st.uid, st.container)
									}
								}
								again = w.disk.killed()
							}
							w.reopen()
							if err := s.found(w); err != nil {
								t.Fatalf("killed at %+v, then at %d: %v", first, m, err)
							}
							s.settle(w, n == operations && m%2 == 0 && err == nil)
							if err := s.finish(w); err != nil {
								t.Fatalf("killed at %+v, then at %d: %v", first, m, err)
							}
							ways++
							if m >= 0 && !again {
								break
							}
						}
					}
				}
				t.Logf("%d operations, %d ways to die", operations, ways)
			})
		})
	}
}

// One operation fails, or all from one on, and the agent lives.
func TestEveryOperationFails(t *testing.T) {
	for name, s := range interruptions() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for n := 0; ; n++ {
					hit := false
					for _, last := range []int{n, 1 << 30} {
						for _, restarts := range []bool{false, true} {
							w, err := s.run(t, func(i int, _, _ string) effect {
								if n <= i && i <= last {
									hit = true
									return fails
								}
								return works
							})
							if err != nil && !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), "unresolvable") {
								t.Errorf("operation %d: %v", n, err)
							}
							if err != nil && s.allocates != "" {
								t.Errorf("operation %d: Allocate is refused: %v", n, err)
							}
							if files := w.files("cdi"); slices.ContainsFunc(files, func(f string) bool { return strings.HasSuffix(f, unfinished) }) &&
								last == n && !strings.Contains(name, "Collect") {
								t.Errorf("operation %d: left unfinished: %s", n, files)
							}
							w.disk.mu.Lock()
							w.disk.fault = nil
							w.disk.mu.Unlock()
							if restarts || w.h == nil {
								w.reopen()
								if err := s.found(w); err != nil {
									t.Fatalf("operations %d to %d failed: %v", n, last, err)
								}
							}
							if err := s.finish(w); err != nil {
								t.Fatalf("operations %d to %d failed, restart %t: %v", n, last, restarts, err)
							}
						}
					}
					if !hit {
						break
					}
				}
			})
		})
	}
}

// The folder of the specifications is full, really.
func TestFullFolder(t *testing.T) {
	cdi := t.TempDir()
	if err := syscall.Mount("tmpfs", cdi, "tmpfs", 0, "size=64k"); err != nil && os.Getenv("WEFT_REQUIRE_E2E") == "1" {
		t.Fatalf("WEFT_REQUIRE_E2E=1 wants this test to run, but a small tmpfs cannot be mounted: %v", err)
	} else if err != nil {
		t.Skipf("cannot mount a small tmpfs, which takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(cdi, 0); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		if err := os.Symlink(cdi, w.path("cdi")); err != nil {
			t.Fatal(err)
		}
		w.bind("uid", "pod", "main=GPU-1")
		ballast := w.path("cdi", "ballast")
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		_, err := w.start("uid", "main")
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), w.path("cdi")) || !strings.Contains(err.Error(), "ns/pod") {
			t.Errorf("error %v", err)
		}
		if files := w.files("cdi"); len(files) != 1 {
			t.Errorf("half-written: %s", files)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		w.mustStart("uid", "main", "GPU-1")
		if err := w.clean(); err != nil {
			t.Error(err)
		}
	})
}

// The book is lost in one of many ways while containers run.
func TestLostBook(t *testing.T) {
	for name, lose := range map[string]func(w *world, path string) error{
		"it is empty, as after a loss of power": func(_ *world, path string) error { return os.WriteFile(path, nil, 0o600) },
		"it is torn": func(_ *world, path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, data[:len(data)-9], 0o600))
		},
		"it is of a newer agent": func(_ *world, path string) error { return os.WriteFile(path, []byte(`{"version":99}`), 0o600) },
		"it is gone":             func(_ *world, path string) error { return os.Remove(path) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.bind("a", "a", "~init=GPU-3;main=GPU-0,GPU-M:1g.10gb@0:1")
				w.mustStart("a", "init", "GPU-3")
				w.mustStart("a", "main", "GPU-0,GPU-M:1g.10gb@0:1")
				w.bind("b", "b", "main=GPU-1:600m/10Mi")
				w.mustStart("b", "main", "GPU-1:600m/10Mi")
				before := w.holders()
				path := w.options().CheckpointPath
				if err := lose(w, path); err != nil {
					t.Fatal(err)
				}
				kept, _ := os.ReadFile(path)
				w.api.synced(false)
				w.kubelet.noCheckpoint = true
				w.reopen()
				if _, err := os.Stat(path); !os.IsNotExist(err) {
					t.Errorf("what is broken is still in its place: %v", err)
				}
				if aside, _ := os.ReadFile(path + ".broken"); string(aside) != string(kept) {
					t.Errorf("kept aside: %q, want %q", aside, kept)
				}

				// Allocate goes on, but nothing is written that would look like the whole book.
				w.bind("c", "c", "main=GPU-1:600m/10Mi")
				if _, err := os.Stat(path); !os.IsNotExist(err) {
					t.Errorf("a part of the book was written: %v", err)
				}
				refused := func(says string) {
					t.Helper()
					if _, err := w.start("c", "main"); !errors.Is(err, errLost) || !strings.Contains(err.Error(), says) {
						t.Errorf("error %v, want %v because of %s", err, errLost, says)
					}
					if _, err := w.h.Collect(quiet); !errors.Is(err, errLost) {
						t.Errorf("Collect: %v", err)
					}
				}
				refused("pods are not all known")
				w.api.synced(true)
				refused("kubelet's checkpoint")
				if n := len(w.files("cdi")); n != 4 {
					t.Errorf("%d specifications are left of running containers", n)
				}
				w.kubelet.noCheckpoint = false
				if _, err := w.start("c", "main"); !errors.Is(err, slot.ErrHeld) || !strings.Contains(err.Error(), "ns/b") {
					t.Errorf("the GPU of a running container: %v", err)
				}
				if fmt.Sprint(before) != fmt.Sprint(w.holders()) {
					t.Errorf("holders: %s, want %s", w.holders(), before)
				}
				w.reopen()
				w.over("b")
				w.mustStart("c", "main", "GPU-1:600m/10Mi")
				w.mustStart("a", "main", "GPU-0,GPU-M:1g.10gb@0:1")
				if err := w.clean(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// After a loss of power the folder of the specifications is empty, so nobody holds anything, and nothing needs to wait.
func TestNewNode(t *testing.T) {
	for name, checkpoint := range map[string][]byte{"no book": nil, "a book that was torn when the power went": []byte(`{"ver`)} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				if checkpoint != nil {
					if err := errors.Join(os.MkdirAll(w.path("state"), 0o755), os.WriteFile(w.options().CheckpointPath, checkpoint, 0o600)); err != nil {
						t.Fatal(err)
					}
				}
				w.reopen()
				w.bind("uid", "pod", "main=GPU-1")
				w.api.synced(false)
				w.kubelet.noCheckpoint = true
				time.Sleep(time.Second)
				w.api.synced(true)
				w.mustStart("uid", "main", "GPU-1")
				w.kubelet.noCheckpoint = false
				if err := w.clean(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestABookThatCannotBeRead(t *testing.T) {
	w := newWorld(t, t.TempDir())
	if err := os.MkdirAll(w.options().CheckpointPath, 0o755); err != nil { // a folder
		t.Fatal(err)
	}
	if err := w.open(nil); err == nil || !strings.Contains(err.Error(), w.options().CheckpointPath) {
		t.Errorf("error %v", err)
	}
}
