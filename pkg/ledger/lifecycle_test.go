package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// truth fails the test unless the books say of each pod what really happened: to the milli-GPU-second where the end was observed, and
// within a tick, marked estimated, where it was not.
func truth(t *testing.T, db *SQL, lives []life) {
	t.Helper()
	ctx := context.Background()
	type amounts struct {
		Startup, Running, Charged int64
		Estimated                 bool
	}
	got := make(map[string]amounts)
	charged := make(map[string]int64)
	var held int64
	for _, s := range all(t, db, Query{}) {
		if s.End == 0 {
			t.Errorf("pod %s, segment %d was left open", s.PodUID, s.Number)
		}
		a := got[s.PodUID]
		if s.Startup {
			a.Startup += s.MilliGPUSeconds()
		} else {
			a.Running += s.MilliGPUSeconds()
		}
		if s.Charged {
			a.Charged += s.Rate * (s.Through - s.Start)
			charged[s.Queue] += s.Rate * (s.Through - s.Start)
		}
		held += s.MilliGPUSeconds()
		a.Estimated = a.Estimated || s.Estimated
		got[s.PodUID] = a
	}
	want := make(map[string]amounts)
	for i := range lives {
		l := &lives[i]
		end, estimated := l.end()
		if over := end - l.ended; estimated && (over < 0 || over > tick) {
			t.Fatalf("the test's own estimate of %s is %d s from the truth", l.PodUID, over)
		}
		a := amounts{Startup: l.MilliGPU * (min(l.ran, end) - l.Start), Estimated: estimated}
		if l.ran < end {
			a.Running, a.Charged = l.MilliGPU*(end-l.ran), l.Rate*(end-l.ran)
		}
		want[l.PodUID] = a
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pods (-want +got):\n%.4000s", diff)
	}
	// Whatever else says how much there was says the same.
	if sums, err := db.Charged(ctx, 0, 0); err != nil || cmp.Diff(charged, sums) != "" {
		t.Errorf("charged: %v\n%s", err, cmp.Diff(charged, sums))
	}
	totals, err := db.Totals(ctx, Query{}, []Dimension{"queue"}, "hour", "Asia/Kolkata")
	if err != nil {
		t.Fatal(err)
	}
	for _, total := range totals {
		held -= total.MilliGPUSeconds
		charged[total.Key[0]] -= total.ChargedMilliGPUSeconds
	}
	for queue, left := range charged {
		if left != 0 || held != 0 {
			t.Errorf("queue %q: totals by the hour are %d milli-GPU-seconds less than the segments; all queues held %d less", queue, left, held)
		}
	}
	if _, err := db.Verify(ctx); err != nil {
		t.Error(err)
	}
}

// Calls are lost, made twice, and made again much later; leaders are followed by others that know only what is on the books.
func TestTheBooksAreTheTruthWhateverIsLostOrRepeated(t *testing.T) {
	const pods = 10_000
	lives := history(5, pods, 7200)
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		random := rand.New(rand.NewPCG(7, 7))
		db, epoch := led(t, fresh())
		r := newRecorder(lives, nil)
		type call struct {
			asOf     int64
			segments []Segment
		}
		var calls []call
		counts := make(map[string]int)
		last := lastEvent(lives)
		for now := epochStart; now <= last; now += tick {
			c := call{now - behind, r.at(now)}
			what := random.IntN(100)
			if now == last {
				what = 100
			}
			switch {
			case what < 5:
				counts["lost"]++
				continue
			case what < 10:
				counts["given up"]++
				early, cancel := context.WithCancel(ctx)
				go cancel() // Somewhere within.
				if err := db.Commit(early, epoch, c.asOf, c.segments); err != nil && !errors.Is(err, context.Canceled) {
					t.Logf("given up: %v", err)
				}
				continue
			case what < 15:
				counts["reply lost"]++
				commit(t, db, epoch, c.asOf, c.segments...)
				continue
			case what < 18:
				counts["other leader"]++
				next, err := db.Lead(ctx, "other", epoch-3)
				if err != nil {
					t.Fatal(err)
				}
				if err := db.Commit(ctx, epoch, c.asOf, c.segments); !errors.Is(err, ErrFenced) {
					t.Fatalf("epoch %d of %d wrote: %v", epoch, next, err)
				}
				epoch = next
				r = newRecorder(lives, all(t, db, Query{}))
				continue
			}
			commit(t, db, epoch, c.asOf, c.segments...)
			r.committed(c.segments)
			if what >= 80 {
				counts["twice"]++
				commit(t, db, epoch, c.asOf, c.segments...)
				calls = append(calls, c)
			}
			if len(calls) > 0 && what < 30 {
				counts["again"]++
				c := calls[random.IntN(len(calls))]
				commit(t, db, epoch, c.asOf, c.segments...)
			}
		}
		t.Logf("%d pods, %v", pods, counts)
		truth(t, db, lives)

		before, err := db.Verify(ctx)
		if err != nil {
			t.Fatal(err)
		}
		asOf, err := db.AsOf(ctx)
		if err != nil || asOf != last-behind {
			t.Errorf("the watermark is %d, want %d: %v", asOf, last-behind, err)
		}
		for _, c := range calls {
			commit(t, db, epoch, c.asOf, c.segments...)
		}
		after, err := db.Verify(ctx)
		if diff := cmp.Diff(before, after); diff != "" || err != nil {
			t.Errorf("calls made again changed the ledger: %v\n%s", err, diff)
		}
		truth(t, db, lives)
	})
}

// childDSN, when set, makes the test binary a recorder that runs until it is done or killed.
const childDSN = "WEFT_LEDGER_TEST_DSN"

// killed is the history that the child records.
func killed() []life { return history(11, 800, 2400) }

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childDSN); dsn != "" {
		if err := record(dsn); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// record goes on where the books end, and prints each watermark that is on them.
func record(dsn string) error {
	ctx := context.Background()
	db, err := Open(ctx, dsn)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // Every commit said already whether it is there.
	// First it leads: then nobody changes what it reads.
	epoch, err := db.Lead(ctx, "child", 0)
	if err != nil {
		return err
	}
	asOf, err := db.AsOf(ctx)
	if err != nil {
		return err
	}
	var books []Segment
	for s, err := range db.Segments(ctx, Query{}) {
		if err != nil {
			return err
		}
		books = append(books, s)
	}
	lives := killed()
	r := newRecorder(lives, books)
	now := epochStart
	if asOf > 0 {
		now = asOf + behind + tick
	}
	for last := lastEvent(lives); now <= last+tick; now += tick {
		segments := r.at(now)
		if err := db.Commit(ctx, epoch, now-behind, segments); err != nil {
			return err
		}
		r.committed(segments)
		fmt.Println(now - behind)
	}
	return nil
}

// The recorder is a process that is killed, wherever it is at that moment.
func TestNothingIsLostWhenTheProcessIsKilled(t *testing.T) {
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		dsn := fresh()
		random := rand.New(rand.NewPCG(3, 3))
		kills := 0
		for done := false; !done; {
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childDSN+"="+dsn)
			child.Stderr = os.Stderr
			output, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			acknowledged := int64(0)
			lines := bufio.NewScanner(output)
			for n := random.IntN(15); n >= 0 && lines.Scan(); n-- {
				if acknowledged, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
					t.Fatal(err)
				}
			}
			// It goes on while this is on its way. One that printed all is not there any more.
			if err := child.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			for lines.Scan() {
				if acknowledged, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
					t.Fatal(err)
				}
			}
			err = child.Wait()
			done = err == nil
			var exit *exec.ExitError
			if !done && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
				t.Fatalf("the child was not killed: %v", err)
			}
			if !done {
				kills++
			}
			func() {
				db, err := OpenReadOnly(ctx, dsn)
				if err != nil {
					// It was killed before there was a ledger.
					if acknowledged != 0 {
						t.Fatal(err)
					}
					return
				}
				defer db.Close() //nolint:errcheck // Only read.
				asOf, err := db.AsOf(ctx)
				if err != nil || asOf < acknowledged {
					t.Fatalf("%d was acknowledged, the books end at %d: %v", acknowledged, asOf, err)
				}
				for _, s := range all(t, db, Query{OpenOnly: true}) {
					if s.Through > asOf {
						t.Fatalf("the books end at %d, and pod %s is charged to %d", asOf, s.PodUID, s.Through)
					}
				}
				if _, err := db.Verify(ctx); err != nil {
					t.Fatal(err)
				}
			}()
		}
		t.Logf("killed %d times", kills)
		if kills < 10 {
			t.Errorf("killed %d times only", kills)
		}
		truth(t, opened(t, dsn), killed())
	})
}
