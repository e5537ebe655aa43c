package gang

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// TestAMemberThatNothingHelpsKeepsNobody: a gang of 2 has four members, and one of them fits nowhere, the first or the last in rank.
func TestAMemberThatNothingHelpsKeepsNobody(t *testing.T) {
	for name, tt := range map[string]struct {
		bad func(*v1.Pod)
		// said is what it is told.
		said string
	}{
		"its claim is missing":      {claim("data"), `persistentvolumeclaim "data" not found`},
		"its request is wrong":      {floored, "lots"},
		"no node is as it wants it": {selects("pool", "x"), "didn't match Pod's node affinity/selector"},
	} {
		for _, who := range []string{"g-00", "g-9"} {
			t.Run(fmt.Sprintf("%s, %s", name, who), func(t *testing.T) {
				inBubble(t, nodesOf(4, 8), func(r *rig) {
					r.group("g", 2)
					r.create(member("g", who, 8, tt.bad))
					r.create(membersOf("g", 3, 8)...)
					r.after(30 * time.Second)
					if n := r.number(); n != 3 {
						t.Errorf("bound: %q, want three; told %q", r.bound(), r.said("g-0"))
					}
					if said := r.said(who); !strings.Contains(said, tt.said) {
						t.Errorf("%s is told %q, want %q", who, said, tt.said)
					}
					r.idle()
				})
			})
		}
	}
}

// TestAMemberThatComesWhileItsGangIsRefused was not planned for, and is not told so: it has a plan made.
func TestAMemberThatComesWhileItsGangIsRefused(t *testing.T) {
	withoutNominations(t)
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.meanwhile(func() { r.create(member("g", "g-2", 8)) })
		r.group("g", 2)
		r.create(member("g", "g-0", 8, selects("pool", "x")), member("g", "g-1", 8))
		r.after(30 * time.Second)
		if n := r.number(); n != 2 {
			t.Errorf("bound: %q, want two; told %q and %q", r.bound(), r.said("g-1"), r.said("g-2"))
		}
	})
}

// TestAGangThatNeedsAMemberThatNothingHelps is told why it waits, and holds nothing.
func TestAGangThatNeedsAMemberThatNothingHelps(t *testing.T) {
	for name, tt := range map[string]struct {
		min  int64
		said string
	}{
		"it needs all": {4, `g-9: persistentvolumeclaim "data" not found`},
		"it can do without, and there is no room": {3, `no node takes g-9: persistentvolumeclaim "data" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(2, 8), func(r *rig) {
				r.group("g", tt.min)
				r.create(member("g", "g-9", 8, claim("data")))
				r.create(membersOf("g", 3, 8)...)
				r.after(30 * time.Second)
				if said := r.said("g-0"); !strings.Contains(said, tt.said) {
					t.Errorf("g-0 is told %q, want %q", said, tt.said)
				}
				if said := r.said("g-9"); !strings.Contains(said, `persistentvolumeclaim "data" not found`) {
					t.Errorf("g-9 is told %q", said)
				}
				if r.number() != 0 {
					t.Errorf("bound: %q", r.bound())
				}
				r.idle()
			})
		})
	}
}
