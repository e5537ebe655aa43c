package gang

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/gang"
)

// A member that PreEnqueue holds back after its gang's members were read is not forgotten: it was created a moment ago.
func TestAMemberThatIsHeldBackDuringALookStaysKnown(t *testing.T) {
	q, k := newQueue(), key("g")
	pods := membersOf("g", 3, 8)
	for i, p := range pods {
		p.UID = types.UID(fmt.Sprint(i))
	}
	q.gate(k, pods[0])
	q.gate(k, pods[1])
	gated := q.heldBack(k)
	members := uids(pods[:1]) // the second one is gone
	q.gate(k, pods[2])
	q.prune(k, gated, members)
	var left []types.UID
	for _, p := range q.ungate(k, func(*v1.Pod) bool { return true }) {
		left = append(left, p.UID)
	}
	slices.Sort(left)
	if diff := cmp.Diff([]types.UID{"0", "2"}, left); diff != "" {
		t.Errorf("held back (-want +got):\n%s", diff)
	}
}

// Each member of a gang of 512 is created, bound and started within a second. What is looked at is seen whole in the end, and what
// comes alone is looked at when it comes.
func TestEventsOfALargeGangAreLookedAtTogether(t *testing.T) {
	for name, tc := range map[string]struct{ members, least, most int }{
		"a large gang at most every 10 ms":       {512, 90, 100},
		"a small one for each event, as it came": {lookAtOnce, 1536, 1536},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l looks
				var mu sync.Mutex
				events, looked, seen := 0, 0, 0
				look := func(gang.Key) int {
					mu.Lock()
					defer mu.Unlock()
					looked++
					seen = events
					return tc.members
				}
				happens := func() {
					mu.Lock()
					events++
					mu.Unlock()
					l.at(key("g"), look)
				}
				for range 3 * 512 {
					happens()
					time.Sleep(time.Second / (3 * 512))
				}
				time.Sleep(time.Second)
				if seen != events || looked > tc.most || looked < tc.least {
					t.Errorf("%d of %d events are seen, in %d looks, want %d to %d", seen, events, looked, tc.least, tc.most)
				}
				if happens(); seen != events {
					t.Error("an event that comes alone has to wait")
				}
				time.Sleep(time.Second)
				if len(l.busy) != 0 {
					t.Error("a gang of which nothing has come is remembered")
				}
			})
		})
	}
}

// Of two informers at a time, the event that comes while the other's is looked at is looked at too.
func TestAnEventThatComesDuringALookIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l looks
		events, seen := 1, 0
		l.at(key("g"), func(gang.Key) int {
			seen = events
			if events == 1 {
				events++
				l.at(key("g"), func(gang.Key) int { t.Error("looked at by two at a time"); return 0 })
			}
			return 1
		})
		if seen != 2 {
			t.Errorf("%d of 2 events are seen", seen)
		}
	})
}
