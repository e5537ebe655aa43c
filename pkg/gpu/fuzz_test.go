package gpu

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func FuzzParseAssignment(f *testing.F) {
	for _, s := range []string{
		"", "main=GPU-1f0c,GPU-77ab", "web=g:250m/20480Mi;batch=h:3g.40gb@4:4", "~setup=g:1g.10gb+me@6:1;sidecar=h;~x=h:1m/1Mi;main=h:999m/2Mi",
		"main=g:01m/1Mi", "main=g:1m/9223372036854775807Mi", "main=g:1g.5gb@0:9223372036854775807", "a=g;a=g", "a=g;b=g", ";", "=", "~=", "a=:", "a=g:@:",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAssignment(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !a.Empty() {
				t.Fatalf("ParseAssignment(%q) = %v, %v", s, a, err)
			}
			return
		}
		if got := a.String(); got != s {
			t.Fatalf("%q prints back as %q", s, got)
		}
		if len(s) > MaxAssignmentBytes {
			t.Fatalf("accepts %d bytes", len(s))
		}
		if err := a.Validate(); err != nil {
			t.Fatalf("accepts %q, which is not valid: %v", s, err)
		}
		uses := a.Uses()
		if !slices.IsSortedFunc(uses, func(a, b Use) int { return strings.Compare(string(a.GPU), string(b.GPU)) }) {
			t.Fatalf("%q uses %v: not by id", s, uses)
		}
		for _, u := range uses {
			ways := 0
			if u.Whole {
				ways++
			}
			if u.MilliGPU > 0 {
				ways++
			}
			if len(u.Instances) > 0 {
				ways++
			}
			if ways != 1 || (u.MilliGPU > 0) != (u.MemoryMiB > 0) {
				t.Fatalf("%q uses %+v: want one way of three", s, u)
			}
			if u.MilliGPU < 0 || u.MilliGPU > WholeMilliGPU || u.MemoryMiB < 0 {
				t.Fatalf("%q uses %+v", s, u)
			}
		}
	})
}

// words reads a request out of any bytes: every request has some.
type words struct{ rest []byte }

func (w *words) next(n int) int {
	if len(w.rest) == 0 {
		return 0
	}
	b := int(w.rest[0])
	w.rest = w.rest[1:]
	return b % n
}

func (w *words) request() Request {
	var r Request
	names := []string{"a", "b", "a b", `"`, "", "a;", "true"}
	for range w.next(4) {
		c := ContainerRequest{Name: names[w.next(len(names))], Init: w.next(2) == 1}
		for range w.next(4) {
			c.Asks = append(c.Asks, Ask{
				Kind: Kind(w.next(5)), Count: w.next(12), MilliGPU: int64(w.next(12)), MemoryMiB: int64(w.next(12)),
				Profile: []string{"", "1g.10gb", "1g.10gb+me", "x,1", "x;"}[w.next(5)],
			})
		}
		r.Containers = append(r.Containers, c)
	}
	for range w.next(4) {
		r.Products = append(r.Products, []string{"", "A100", "A30", `"`, `""`, " ", "a\" true", ";"}[w.next(8)])
	}
	return r
}

// equal compares field by field, as Shape must tell apart.
func equal(a, b Request) bool {
	return slices.Equal(a.Products, b.Products) && slices.EqualFunc(a.Containers, b.Containers, func(a, b ContainerRequest) bool {
		return a.Name == b.Name && a.Init == b.Init && slices.Equal(a.Asks, b.Asks)
	})
}

// Two requests have the same shape if and only if they are equal, valid or not. The shape of a request without containers
// says nothing of its products: it asks for nothing.
func FuzzRequestShape(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1, 0, 0, 1, 1, 1, 0, 0, 0}, []byte{1, 0, 0, 1, 1, 1, 0, 0, 0})
	f.Add([]byte{2, 0, 0, 0, 1, 0, 0}, []byte{1, 0, 0, 2, 1, 1, 1})
	f.Add([]byte{1, 2, 0, 0, 2, 1, 2}, []byte{1, 2, 0, 0, 1, 6})
	f.Fuzz(func(t *testing.T, x, y []byte) {
		a, b := (&words{x}).request(), (&words{y}).request()
		if a.Empty() != (a.Shape() == "") {
			t.Fatalf("%+v: shape %q", a, a.Shape())
		}
		if a.Empty() && b.Empty() {
			return
		}
		if same := a.Shape() == b.Shape(); same != equal(a, b) {
			t.Fatalf("%+v\n%+v\nequal: %t, but the shapes are\n%s\n%s", a, b, equal(a, b), a.Shape(), b.Shape())
		}
	})
}
