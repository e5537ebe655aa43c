package health

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// page is what docs/node.md says of health, in one line.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/node.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## Health\n")
	if !ok {
		t.Fatal("docs/node.md has no section Health")
	}
	body, _, _ := strings.Cut(rest, "\n## ")
	return strings.Join(strings.Fields(body), " ")
}

func TestEveryIgnoredXidIsDocumented(t *testing.T) {
	list := regexp.MustCompile(`Ignored are the Xids ((?:\d+, )*\d+ and \d+),`).FindStringSubmatch(page(t))
	if list == nil {
		t.Fatal("docs/node.md does not list the Xids that are ignored")
	}
	var documented []uint64
	for _, number := range regexp.MustCompile(`\d+`).FindAllString(list[1], -1) {
		xid, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		documented = append(documented, xid)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(harmless)), documented); diff != "" {
		t.Errorf("docs/node.md (- the program, + the page):\n%s", diff)
	}
}

// TestQuarantinesAreDocumented holds the page to the constants.
func TestQuarantinesAreDocumented(t *testing.T) {
	if longest != time.Hour || steady != time.Hour {
		t.Fatalf("longest is %v and steady %v: docs/node.md says an hour of both", longest, steady)
	}
	text := page(t)
	for _, want := range []string{
		fmt.Sprintf("no recovery action for %d s,", defaultQuarantine/time.Second),
		fmt.Sprintf("%d min where the driver cannot say so", defaultBlindQuarantine/time.Minute),
		"fails again within an hour waits twice as long each time, up to an hour,",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/node.md, section Health, does not say %q", want)
		}
	}
}
