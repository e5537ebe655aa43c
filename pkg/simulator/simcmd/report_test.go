package simcmd

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/simulator/report"
)

// requireChromium is the variable that makes the absence of a browser a failure.
const requireChromium = "WEFT_REQUIRE_CHROMIUM"

// browser is a page in a headless Chromium that tells everything that it should not do.
type browser struct {
	*testing.T
	ctx context.Context
	url string

	mu       sync.Mutex
	requests []string
	said     []string
}

// browse opens a file.
func browse(t *testing.T, file string) *browser {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		if os.Getenv(requireChromium) == "1" {
			t.Fatalf("there is no chromium in PATH, and %s is 1", requireChromium)
		}
		t.Skip("there is no chromium in PATH: the report is not looked at in a browser")
	}
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{T: t, url: "file://" + path}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
	}
	for _, flag := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-extensions", "disable-dev-shm-usage"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	b.ctx, cancel = chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	// It ends before the folder of its profile is removed.
	t.Cleanup(func() { _ = chromedp.Cancel(b.ctx) })
	if err := chromedp.Do(b.ctx); err != nil { // starts it
		t.Fatal(err)
	}
	err = chromedp.Listen(b.ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			b.requests = append(b.requests, e.Request.URL)
		case *cdpruntime.EventConsoleAPICalled:
			b.said = append(b.said, "console: "+string(e.Type))
		case *cdpruntime.EventExceptionThrown:
			b.said = append(b.said, fmt.Sprintf("%s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
		case *log.EventEntryAdded:
			b.said = append(b.said, e.Entry.Text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	call(b, log.Enable, cdp.Empty{})
	call(b, network.Enable, network.EnableParams{})
	b.do(chromedp.EmulateViewport(1400, 900))
	b.scheme("light")
	b.do(chromedp.Navigate(b.url))
	return b
}

// patience is for one action on a machine that does much else.
const patience = 2 * time.Minute

// do runs actions.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// call calls a command of the DevTools protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if _, err := chromedp.Call(ctx, command, params); err != nil {
		b.Fatal(err)
	}
}

// value is what an expression of JavaScript is.
func value[T any](b *browser, expression string) T {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// quiet checks that the page loaded itself alone, and that nothing was said of it or by it.
func (b *browser) quiet() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if diff := cmp.Diff([]string{b.url}, b.requests); diff != "" {
		b.Errorf("requests:\n%s", diff)
	}
	if len(b.said) > 0 {
		b.Errorf("the browser says: %s", strings.Join(b.said, "\n"))
	}
}

// scheme has the page shown as a person with dark or light settings sees it.
func (b *browser) scheme(name string) {
	b.Helper()
	// Without motion, for a page that still scrolls moves away under the pointer.
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"}},
	})
}

// checks are functions that look at the page; each returns what is wrong.
//
//go:embed testdata/checks.js
var checks string

// looksRight checks contrast and names of what is drawn, in both schemes, and that nothing is cut off at widths from a telephone's on.
func (b *browser) looksRight() {
	b.Helper()
	b.do(chromedp.Evaluate[chromedp.Void](checks),
		chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("details").forEach((d) => { d.open = true })`))
	backgrounds := map[string]bool{}
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		backgrounds[value[string](b, `getComputedStyle(document.body).backgroundColor`)] = true
		if wrong := value[[]string](b, `checks.contrast()`); len(wrong) > 0 {
			b.Errorf("%s: too little contrast:\n%s", scheme, strings.Join(wrong, "\n"))
		}
	}
	if len(backgrounds) != 2 {
		b.Errorf("light and dark have the backgrounds %v", backgrounds)
	}
	if wrong := value[[]string](b, `checks.names()`); len(wrong) > 0 {
		b.Errorf("without a name for those who cannot see it:\n%s", strings.Join(wrong, "\n"))
	}
	for _, width := range []int64{400, 768, 1400} {
		b.do(chromedp.EmulateViewport(width, 900))
		if wrong := value[[]string](b, `checks.overflow()`); len(wrong) > 0 {
			b.Errorf("at %d pixels the page is wider than the window:\n%s", width, strings.Join(wrong, "\n"))
		}
	}
}

// sections are the ids of those that are seen.
func (b *browser) sections() []string {
	return value[[]string](b, `[...document.querySelectorAll("section[id]")].filter((s) => s.offsetHeight > 0).map((s) => s.id)`)
}

// TestReportInABrowser: a report of a real run, in a real browser.
func TestReportInABrowser(t *testing.T) {
	const nodes = nodeList + "m-0,96000,786432,8,A100\nm-1,96000,786432,8,A100\nm-2,96000,786432,8,A100\n"
	lay(t, map[string]string{"nodes.csv": nodes, "tiny.csv": podList, "<img>.csv": podList})
	if _, _, err := sim(t.Context(), "openb --nodes nodes.csv --pods tiny.csv,<img>.csv --policy bestfit,random,default --seeds 1-3 --bound --report out.html"); err != nil {
		t.Fatal(err)
	}
	b := browse(t, "out.html")
	if diff := cmp.Diff([]string{"results", "curves", "map"}, b.sections()); diff != "" {
		t.Errorf("sections:\n%s", diff)
	}

	const now, pixels = `document.getElementById("map-now").textContent`,
		`[...document.querySelectorAll("canvas")].map((c) => c.toDataURL()).join()`
	before := value[string](b, pixels)
	b.do(chromedp.Focus("#map-time"), chromedp.KeyEvent(kb.Home))
	if got := value[string](b, now); !strings.HasPrefix(got, "0.0\u00a0% arrived: 0.0 % of the GPU capacity is used; 0 GPUs used up, 0 in part, 30 idle") {
		t.Errorf("at the beginning the map says %q", got)
	}
	if got := value[string](b, `document.getElementById("map-time").getAttribute("aria-valuetext")`); got != "0.0\u00a0% arrived" {
		t.Errorf("the slider says %q", got)
	}
	empty := value[string](b, pixels)
	if empty == before {
		t.Error("the map at the beginning looks as at the end")
	}
	b.do(chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight))
	if got := value[string](b, `document.getElementById("map-now").dataset.frame`); got != "2" {
		t.Errorf("two steps on, the map shows frame %s", got)
	}
	b.do(chromedp.KeyEvent(kb.End))
	if value[string](b, pixels) != before {
		t.Error("the map at the end looks otherwise than before")
	}
	b.do(chromedp.Focus("#map-run"), chromedp.KeyEvent(kb.ArrowDown))
	if value[string](b, pixels) == before {
		t.Error("another policy has the same map")
	}
	light := value[string](b, pixels)
	b.scheme("dark")
	b.do(chromedp.Poll[chromedp.Void](pixels + " !== " + quoted(light))) // the map follows

	// The chart tells its values under the arrow keys and under the pointer.
	tip := `(() => { const t = document.querySelector("svg[data-chart] ~ .tip"); return t.hidden ? "" : t.textContent })()`
	if got := value[string](b, tip); got != "" {
		t.Errorf("before anybody points at it, the chart says %q", got)
	}
	b.do(chromedp.Focus("svg[data-chart]"), chromedp.KeyEvent(kb.ArrowLeft))
	for _, want := range []string{"\u00a0% arrived\n", "bestfit: ", "random: ", "default: "} {
		if got := value[string](b, tip); !strings.Contains(got, want) {
			t.Errorf("with the keys, the chart says %q, without %q", got, want)
		}
	}
	b.do(chromedp.KeyEvent(kb.Escape))
	if got := value[string](b, tip); got != "" {
		t.Errorf("after Escape, the chart says %q", got)
	}
	b.pointAt("svg[data-chart]", 0.5, 0.5)
	if got := value[string](b, tip); !strings.Contains(got, "% arrived\n") {
		t.Errorf("under the pointer, the chart says %q", got)
	}
	b.pointAt("canvas", 2, 2) // in pixels: the first GPU
	mapTip := `(() => { const t = document.querySelector("#map-groups .tip"); return t.hidden ? "" : t.textContent })()`
	if got := value[string](b, mapTip); !strings.Contains(got, ", GPU 0: ") || !strings.HasSuffix(got, "% used") {
		t.Errorf("under the pointer, the map says %q", got)
	}

	// Paper is white, and nothing on it can be operated.
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Media: "print", Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	})
	if got := value[string](b, `getComputedStyle(document.body).backgroundColor`); got != "rgb(255, 255, 255)" {
		t.Errorf("printed, the background is %s", got)
	}
	if value[bool](b, `document.getElementById("map-play").checkVisibility()`) {
		t.Error("printed, there are buttons")
	}

	b.looksRight()
	if value[bool](b, `document.images.length > 0`) {
		t.Error("a list's name became an element of the page")
	}
	b.quiet()
}

// TestReplayReportInABrowser: what a replay gives, with queues and gangs.
func TestReplayReportInABrowser(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "report", "testdata", "replay.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d report.Data
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := report.Write(&page, d); err != nil {
		t.Fatal(err)
	}
	lay(t, map[string]string{"out.html": page.String()})
	b := browse(t, "out.html")
	if diff := cmp.Diff([]string{"results", "time", "queues", "gangs"}, b.sections()); diff != "" {
		t.Errorf("sections:\n%s", diff)
	}
	b.pointAt("[data-tip] .box", 1, 1)
	if got := value[string](b, `[...document.querySelectorAll(".tip")].filter((t) => !t.hidden).map((t) => t.textContent).join()`); !strings.Contains(got, "research, weft:\nleast: 0") {
		t.Errorf("under the pointer, the box says %q", got)
	}
	b.looksRight()
	if value[bool](b, `"hacked" in window`) {
		t.Error("a queue's name was run")
	}
	b.quiet()
}

// TestReplayReport: a report of real replays, with everything that they are said to have.
func TestReplayReport(t *testing.T) {
	example, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "examples", "replay.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	lay(t, map[string]string{"replay.yaml": string(example)})
	out, _, err := sim(t.Context(), "replay scenario replay.yaml --policy all -o json --report out.html")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, `"series"`) {
		t.Error("the series that the report has is in the output, which was not asked for")
	}
	b := browse(t, "out.html")
	if diff := cmp.Diff([]string{"results", "time", "queues", "gangs"}, b.sections()); diff != "" {
		t.Errorf("sections:\n%s", diff)
	}
	titles := value[[]string](b, `[...document.querySelectorAll("h4")].map((h) => h.textContent)`)
	want := []string{
		"Allocated", "Jobs that wait", "GPUs that are waited for", "Waits", "Completion times", "GPU-hours used", "Sizes", "Waits by size",
	}
	if diff := cmp.Diff(want, titles); diff != "" {
		t.Errorf("charts:\n%s", diff)
	}
	b.quiet()
}

// pointAt moves the pointer into an element: to a part of its size, or by pixels where they are 1 and more.
func (b *browser) pointAt(selector string, x, y float64) {
	b.Helper()
	box := value[[]float64](b, `(() => { const e = document.querySelector(`+quoted(selector)+`); e.scrollIntoView({ block: "center", behavior: "instant" });
		const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()`)
	if x < 1 {
		x, y = x*box[2], y*box[3]
	}
	b.frames() // what is under the pointer is where it was drawn last
	b.do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, box[0]+x, box[1]+y))
	b.frames()
}

// frames waits until the page has been drawn twice.
func (b *browser) frames() {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	const drawn = `new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](drawn, chromedp.EvalAwaitPromise)); err != nil {
		b.Fatal(err)
	}
}

func quoted(text string) string {
	b, _ := json.Marshal(text) // of a string it cannot fail
	return string(b)
}

// TestReportFile: what can go wrong with the file is told before anything runs, and what was there stays until there is a report.
func TestReportFile(t *testing.T) {
	const run = "openb --nodes nodes.csv --pods pods.csv --seeds 1-2 -o json --report "
	tests := map[string]struct {
		file, want string
		cancelled  bool
	}{
		"a folder that is not there": {file: "none/out.html", want: "--report: open none/.out.html."},
		"a folder":                   {file: ".", want: "--report: . is no regular file"},
		"interrupted before a run":   {file: "out.html", want: "interrupted after 0 of 2 runs", cancelled: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			lay(t, map[string]string{"nodes.csv": nodeList, "pods.csv": podList, "out.html": "before"})
			ctx, cancel := context.WithCancel(t.Context())
			if tc.cancelled {
				cancel()
			}
			defer cancel()
			out, _, err := sim(ctx, run+tc.file)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if out != "" {
				t.Errorf("got output %q", out)
			}
			if got, _ := os.ReadFile("out.html"); string(got) != "before" {
				t.Errorf("out.html is %q", got)
			}
			onlyThese(t, "nodes.csv", "out.html", "pods.csv")
		})
	}
	t.Run("the same again gives the same file", func(t *testing.T) {
		lay(t, map[string]string{"nodes.csv": nodeList, "pods.csv": podList})
		var pages [2][]byte
		for i := range pages {
			if _, _, err := sim(t.Context(), run+"out.html"); err != nil {
				t.Fatal(err)
			}
			var err error
			if pages[i], err = os.ReadFile("out.html"); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(pages[0], pages[1]) {
			t.Error("the two differ")
		}
		info, err := os.Stat("out.html")
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("the file's mode is %v, %v", info.Mode(), err)
		}
		onlyThese(t, "nodes.csv", "out.html", "pods.csv")
	})
}

func onlyThese(t *testing.T, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Error(diff)
	}
}
