package cli

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestBar(t *testing.T) {
	for _, tc := range []struct {
		perMille     int64
		width        int
		fancy, plain string
	}{
		{0, 4, "····", "----"},
		{1, 4, "▏···", "----"},
		{500, 4, "██··", "##--"},
		{625, 4, "██▌·", "##--"},
		{999, 4, "███▉", "###-"},
		{1000, 4, "████", "####"},
		{1400, 4, "████", "####"},
		{-5, 4, "····", "----"},
		{1000, 1, "█", "#"},
	} {
		if got := (style{}).bar(tc.perMille, tc.width); got != tc.fancy {
			t.Errorf("bar(%d, %d) = %q, want %q", tc.perMille, tc.width, got, tc.fancy)
		}
		if got := (style{ascii: true}).bar(tc.perMille, tc.width); got != tc.plain {
			t.Errorf("ascii bar(%d, %d) = %q, want %q", tc.perMille, tc.width, got, tc.plain)
		}
	}
}

// TestBarTellsTheEndsApart: only what is empty looks empty, only what is full looks full, and all are as wide.
func TestBarTellsTheEndsApart(t *testing.T) {
	for width := range 25 {
		if width == 0 {
			continue
		}
		for perMille := range int64(1001) {
			b := style{}.bar(perMille, width)
			if utf8.RuneCountInString(b) != width {
				t.Fatalf("bar(%d, %d) = %q: %d wide", perMille, width, b, utf8.RuneCountInString(b))
			}
			if empty := b == strings.Repeat("·", width); empty != (perMille == 0) {
				t.Fatalf("bar(%d, %d) = %q", perMille, width, b)
			}
			if full := b == strings.Repeat("█", width); full != (perMille == 1000) {
				t.Fatalf("bar(%d, %d) = %q", perMille, width, b)
			}
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{gpus(0), "0"},
		{gpus(3000), "3"},
		{gpus(2500), "2.5"},
		{gpus(250), "0.25"},
		{gpus(1004), "1"},
		{gpus(1005), "1.01"},
		{gpus(10_000), "10"},
		{gpus(6_212_996), "6213"},
		{percent(0), "0.0%"},
		{percent(613), "61.3%"},
		{percent(1000), "100.0%"},
		{gibibytes(81559), "80 GiB"},
		{gibibytes(15360), "15 GiB"},
		{gibibytes(4864), "4.8 GiB"},
		{gibibytes(10240), "10 GiB"},
		{count(0, "node"), "0 nodes"},
		{count(1, "node"), "1 node"},
		{shorten("short", 8), "short"},
		{shorten("ip-10-0-1-123.internal", 11), "ip-10…ernal"},
		{shorten("abc", 2), "abc"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}

func TestNamesFillTheRoom(t *testing.T) {
	nodes := []Node{{Name: "node-1"}, {Name: "node-2"}, {Name: "node-3"}}
	for _, tc := range []struct {
		room int
		want string
	}{
		{0, "node-1 and 2 more"},
		{21, "node-1 and 2 more"},
		{22, "node-1, node-2, node-3"},
		{25, "node-1, node-2, node-3"},
	} {
		if got := names(nodes, tc.room); got != tc.want {
			t.Errorf("names in %d: %q, want %q", tc.room, got, tc.want)
		}
	}
	if got := names(nodes[:1], 0); got != "node-1" {
		t.Errorf("one name: %q", got)
	}
}

func TestTableDropsAColumn(t *testing.T) {
	tab := table{header: []string{"A", "B", "C"}, right: []int{1, 2}}
	tab.row("long", "1", "22")
	tab.row("", "333", "4")
	tab.drop("B")
	want := []string{"  A      C", "  long  22", "         4"}
	if diff := cmp.Diff(want, tab.lines(style{}, "  ")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestColourOnlyWhenAsked(t *testing.T) {
	if got := (style{}).paint(colourRed, "x"); got != "x" {
		t.Errorf("without colour: %q", got)
	}
	if got := (style{colour: true}).paint(colourRed, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("with colour: %q", got)
	}
}
