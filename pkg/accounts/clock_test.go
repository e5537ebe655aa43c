package accounts

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	const tick = 15
	var wall, passed int64
	c := &clock{wall: func() time.Time { return time.Unix(wall, 0) }, passed: func() time.Duration { return time.Duration(passed) * time.Second }}
	pass := func(ticks int) {
		for range ticks {
			wall += tick
			passed += tick
			before := c.now()
			c.tick(tick)
			if now := c.now(); now < before-tick {
				t.Fatalf("the time goes back from %d to %d", before, now)
			}
		}
	}
	off := func() int64 { return wall - c.now() }
	want := func(name string, want int64) {
		t.Helper()
		if got := off(); got != want {
			t.Errorf("%s: %d seconds behind the machine's clock, want %d", name, got, want)
		}
	}
	wall = 1_000_000
	c.start()
	pass(100)
	want("a clock that is right", 0)

	wall += 3600
	pass(doubtFor)
	want("set, and not believed for a while", 3600)
	wall -= 3600
	pass(1)
	want("set back", 0)
	wall++
	pass(100)
	want("a second is none", 1)
	wall--

	wall += 3600
	pass(doubtFor + 1)
	want("believed, and followed slowly", 3600-tick/slewPart)
	pass(99)
	want("a fifth of the time", 3600-100*tick/slewPart)
	pass(2000)
	if off() < -1 || off() > 1 {
		t.Errorf("it is still %d seconds off", off())
	}

	wall -= 1800
	pass(doubtFor + 100)
	want("back as slowly", -1800+100*tick/slewPart)
	for at := c.now(); off() < -1; {
		pass(1)
		if now := c.now(); now <= at {
			t.Fatalf("the time stands still at %d", now)
		} else {
			at = now
		}
	}

	wall += 7200 // one that is started believes it
	c.start()
	want("started again", 0)
}
