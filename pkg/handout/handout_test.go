package handout

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

func TestAStartIsRepeatable(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.bind("uid", "pod", "main=GPU-1,GPU-M:1g.10gb@0:1")
		w.mustStart("uid", "main", "GPU-1,GPU-M:1g.10gb@0:1")
		state := func() map[string]string {
			out := map[string]string{}
			for _, folder := range []string{"cdi", "state"} {
				for _, f := range w.files(folder) {
					data, err := os.ReadFile(w.path(folder, f))
					if err != nil {
						t.Fatal(err)
					}
					out[f] = string(data)
				}
			}
			return out
		}
		first := state()
		if len(first) != 3 {
			t.Errorf("files: %v", first)
		}
		for range 2 {
			time.Sleep(time.Hour)
			w.mustStart("uid", "main", "GPU-1,GPU-M:1g.10gb@0:1")
			if diff := cmp.Diff(first, state()); diff != "" {
				t.Errorf("-first +later\n%s", diff)
			}
			w.reopen()
		}
	})
}

// The agent starts while the API server is away: who holds GPUs can start again, others wait.
func TestWithoutTheAPIServer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.bind("uid", "pod", "~init=GPU-0;main=GPU-1")
		w.mustStart("uid", "init", "GPU-0")
		w.bind("uid-2", "pod-2", "main=GPU-2")
		w.api.synced(false)
		w.api.seen = map[string]slot.Pod{}
		w.reopen()
		w.mustStart("uid", "main", "GPU-1")
		if _, err := w.start("uid-2", "main"); !errors.Is(err, errNoPod) {
			t.Errorf("error %v, want %v", err, errNoPod)
		}
		time.Sleep(2 * slot.Grace)
		if released, err := w.h.Collect(quiet); len(released) > 0 || err != nil {
			t.Errorf("without knowing the pods there was released %v, %v", released, err)
		}
		w.api.synced(true)
		w.mustStart("uid-2", "main", "GPU-2")
		if err := w.clean(); err != nil {
			t.Error(err)
		}
	})
}

func TestCollectReturnsWhatWasReleasedOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		collect := func() (out []string) {
			released, err := w.h.Collect(quiet)
			if err != nil {
				t.Error(err)
			}
			for _, r := range released {
				out = append(out, r.Holder.UID)
			}
			slices.Sort(out)
			return out
		}
		changed := func(c <-chan struct{}) bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		for _, p := range []string{"a", "b"} {
			w.bind(p, p, "main=GPU-"+map[string]string{"a": "0", "b": "1"}[p])
			w.mustStart(p, "main", "GPU-"+map[string]string{"a": "0", "b": "1"}[p])
		}
		c := w.h.Changed()
		if got := collect(); got != nil || changed(c) {
			t.Errorf("released %s while all are there", got)
		}
		w.over("a")
		w.over("b")
		w.bind("c", "c", "main=GPU-0")
		if c = w.h.Changed(); changed(c) {
			t.Error("the book has not changed")
		}
		w.mustStart("c", "main", "GPU-0") // releases what is in the way, and more
		if !changed(c) {
			t.Error("nobody was told that the book has changed")
		}
		if diff := cmp.Diff([]string{"c/main GPU-0"}, w.holders()); diff != "" {
			t.Errorf("holders: -want +got\n%s", diff)
		}
		if diff := cmp.Diff([]string{"a", "b"}, collect()); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		c = w.h.Changed()
		if got := collect(); got != nil || changed(c) {
			t.Errorf("released %s a second time", got)
		}
		w.gone("c")
		w.bind("d", "d", "main=GPU-0") // the kubelet writes its checkpoint
		if diff := cmp.Diff([]string{"c"}, collect()); diff != "" || !changed(c) {
			t.Errorf("-want +got\n%s", diff)
		}
		if err := w.clean(); err != nil {
			t.Error(err)
		}
	})
}

// What happens while the kubelet is asked, its answer says nothing about.
func TestCollectKeepsWhatTheKubeletCouldNotKnow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.kubelet.asked = func() {
			w.kubelet.asked = nil
			w.bind("uid", "pod", "~init=GPU-1;main=GPU-1")
			w.mustStart("uid", "init", "GPU-1")
			w.api.remove("uid") // by force: the kubelet still runs it
		}
		if released, err := w.h.Collect(quiet); len(released) > 0 || err != nil {
			t.Errorf("released %v, %v", released, err)
		}
		// The same, but the agent had answered Allocate before, and the kubelet not yet written that down.
		w.bind("uid-2", "pod-2", "main=GPU-2")
		claims := w.kubelet.claims
		w.kubelet.claims = slices.DeleteFunc(slices.Clone(claims), func(c slot.Claim) bool { return c.UID == "uid-2" })
		w.kubelet.asked = func() {
			w.kubelet.asked, w.kubelet.claims = nil, claims
			w.mustStart("uid-2", "main", "GPU-2")
			w.api.remove("uid-2")
		}
		if released, err := w.h.Collect(quiet); len(released) > 0 || err != nil {
			t.Errorf("released %v, %v", released, err)
		}
		if diff := cmp.Diff([]string{"uid-2/main GPU-2", "uid/init GPU-1", "uid/main GPU-1"}, w.holders()); diff != "" {
			t.Errorf("holders: -want +got\n%s", diff)
		}
	})
}

func TestCollectRemovesWhatBelongsToNobody(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.bind("uid", "pod", "main=GPU-1")
		w.mustStart("uid", "main", "GPU-1")
		ours := w.files("cdi")
		theirs := []string{"nvidia.yaml", "weft.sh-other.json", "spec.1.tmp", "weft.sh-slots.json"}
		for _, f := range append([]string{"weft.sh-slot-stale.json", ours[0] + unfinished, "weft.sh-slot-", "weft.sh-slot-x.yaml"}, theirs...) {
			if err := os.WriteFile(w.path("cdi", f), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.h.Collect(quiet); err != nil {
			t.Error(err)
		}
		want := append(slices.Clone(ours), theirs...)
		slices.Sort(want)
		if diff := cmp.Diff(want, w.files("cdi")); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// The kubelet heard the answer, but did not live to write it down.
func TestAllocatedForNobody(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		if _, err := w.h.Allocate(quiet, slot.Resource{Kind: gpu.Whole}, []string{"gpu-0"}); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {slot.Grace - time.Second, 1}, {2 * time.Second, 0}} {
			time.Sleep(tc.after)
			if _, err := w.h.Collect(quiet); err != nil {
				t.Fatal(err)
			}
			if n := len(w.h.Book().Records); n != tc.want {
				t.Errorf("%d records after another %v, want %d", n, tc.after, tc.want)
			}
		}
	})
}

// The pod ends, and what it held is released and given away, while the GPUs are prepared for its container.
func TestReleasedWhileItStarts(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.bind("uid", "pod", "main=GPU-1")
		w.preparing = func() {
			w.preparing = nil
			w.over("uid")
			w.bind("uid-2", "next", "main=GPU-1")
			w.mustStart("uid-2", "main", "GPU-1")
		}
		if gpus, err := w.start("uid", "main"); !errors.Is(err, errOver) {
			t.Errorf("it has %q, %v", gpus, err)
		}
		if diff := cmp.Diff([]string{"uid-2/main GPU-1"}, w.holders()); diff != "" || len(w.files("cdi")) != 1 {
			t.Errorf("holders, and %s: -want +got\n%s", w.files("cdi"), diff)
		}
	})
}

// What Allocate answered is written down, although the kubelet's checkpoint has it too: that may not be readable.
func TestAllocatedIsWrittenDown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.bind("uid", "pod", "main=GPU-1")
		before := w.h.Book()
		w.reopen()
		if diff := cmp.Diff(before, w.h.Book()); diff != "" {
			t.Errorf("-before +after\n%s", diff)
		}
		w.kubelet.noCheckpoint = true
		w.mustStart("uid", "main", "GPU-1")
	})
}

func TestNamesAreNeverTheSame(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		seen := map[string]bool{}
		for range 500 {
			name, err := w.h.Allocate(quiet, slot.Resource{Kind: gpu.Whole}, []string{"gpu-0"})
			if err != nil || seen[name] || !strings.HasPrefix(name, "weft.sh/slot=") {
				t.Fatalf("%q, %v", name, err)
			}
			seen[name] = true
		}
	})
}
