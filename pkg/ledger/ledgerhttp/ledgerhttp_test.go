package ledgerhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/ledger"
)

// store is a real ledger with some rows, the last of them open.
func store(t *testing.T) ledger.Store {
	t.Helper()
	db, err := ledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	epoch, err := db.Lead(t.Context(), "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	const day = 1_795_219_200 // 2026-11-21 UTC
	var rows []ledger.Segment
	for i := range 1200 {
		start := int64(day + 60*i)
		s := ledger.Segment{
			PodUID: fmt.Sprintf("uid-%04d", i/2), Number: int32(i % 2), Namespace: []string{"ml", "web"}[i%2], Pod: fmt.Sprintf("p-%d", i/2), Node: "n",
			Queue: []string{"", "research", "serving"}[i%3], User: "eve", Workload: "Job/train", Class: "h100", Product: "H100",
			MilliGPU: 250, Rate: 375, PriceMicros: 3_950_000, Currency: "EUR", Charged: i%5 != 0, Startup: i%5 == 0,
			Start: start, Through: start + 45, End: start + 45, Closed: "observed",
		}
		if i%7 == 0 {
			s.Labels = map[string]string{"team": "a&b=<c>"}
		}
		if i == 1199 {
			// More than a float64 keeps.
			s.MilliGPU, s.Rate, s.Through, s.End, s.Closed = 1<<33+1, 1<<33+1, start+7200, 0, ""
		}
		rows = append(rows, s)
	}
	if err := db.Commit(t.Context(), epoch, day+90000, rows); err != nil {
		t.Fatal(err)
	}
	return db
}

func client(t *testing.T, r Reader) *Client {
	t.Helper()
	server := httptest.NewServer(Handler(r))
	t.Cleanup(server.Close)
	c, err := NewClient(server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func all(t *testing.T, r Reader, q ledger.Query) []ledger.Segment {
	t.Helper()
	var out []ledger.Segment
	for s, err := range r.Segments(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// TestAClientReadsWhatTheLedgerSays: whatever is asked.
func TestAClientReadsWhatTheLedgerSays(t *testing.T) {
	db := store(t)
	c := client(t, db)
	for name, tc := range map[string]struct {
		query            ledger.Query
		by               []ledger.Dimension
		bucket, timeZone string
		none             bool
	}{
		"everything":             {},
		"a time":                 {query: ledger.Query{From: 1_795_219_230, To: 1_795_230_000}, by: []ledger.Dimension{"queue"}},
		"pods of no queue":       {query: ledger.Query{Queues: []string{""}}, by: []ledger.Dimension{"namespace", "queue"}},
		"two queues":             {query: ledger.Query{Queues: []string{"research", "serving"}}, by: []ledger.Dimension{"class", "product", "profile"}},
		"a namespace":            {query: ledger.Query{Namespaces: []string{"web"}}, by: []ledger.Dimension{"user", "workload", "currency"}},
		"a pod":                  {query: ledger.Query{PodUID: "uid-0007"}},
		"a label":                {query: ledger.Query{Label: "team"}, by: []ledger.Dimension{"label:team"}},
		"a label with a value":   {query: ledger.Query{Label: "team", LabelIs: "a&b=<c>"}, by: []ledger.Dimension{"label:team"}},
		"what is open":           {query: ledger.Query{OpenOnly: true}},
		"hours":                  {by: []ledger.Dimension{"queue"}, bucket: "hour", timeZone: "Asia/Kolkata", query: ledger.Query{IncludeRollups: true}},
		"days of a time zone":    {bucket: "day", timeZone: "Europe/Berlin"},
		"months":                 {bucket: "month"},
		"a queue without a row":  {query: ledger.Query{Queues: []string{"none"}}, none: true},
		"before there was a row": {query: ledger.Query{To: 1000}, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := db.Totals(t.Context(), tc.query, tc.by, tc.bucket, tc.timeZone)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Totals(t.Context(), tc.query, tc.by, tc.bucket, tc.timeZone)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("totals (-ledger +client)\n%s", diff)
			}
			rows := all(t, db, tc.query)
			if diff := cmp.Diff(rows, all(t, c, tc.query)); diff != "" {
				t.Errorf("segments (-ledger +client)\n%s", diff)
			}
			if (len(rows) == 0) != tc.none || (len(got) == 0) != tc.none {
				t.Errorf("%d rows, %d lines; none: %t", len(rows), len(got), tc.none)
			}
		})
	}
	want, err := db.Charged(t.Context(), 1_795_219_230, 1_795_300_000)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Charged(t.Context(), 1_795_219_230, 1_795_300_000); err != nil || !maps.Equal(want, got) || len(got) != 3 {
		t.Errorf("charged: %v, %v, want %v", got, err, want)
	}
	if got, err := c.AsOf(t.Context()); err != nil || got != 1_795_219_200+90000 {
		t.Errorf("as of %d, %v", got, err)
	}
	n := 0
	for range c.Segments(t.Context(), ledger.Query{}) {
		if n++; n == 3 {
			break // and the rest is not waited for
		}
	}
}

func TestBadInputIsRefused(t *testing.T) {
	server := httptest.NewServer(Handler(store(t)))
	defer server.Close()
	for _, tc := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "segments?form=1", 400, `parameter "form" is not known here: want from, label, labelIs, namespace, open, pod, queue, to`},
		{"GET", "segments?rollups=true", 400, `parameter "rollups" is not known here`},
		{"GET", "segments?from=yesterday", 400, `parameter from is "yesterday": want Unix seconds, 0 or more`},
		{"GET", "totals?to=-1", 400, `parameter to is "-1": want Unix seconds, 0 or more`},
		{"GET", "totals?from=1e3", 400, `parameter from is "1e3"`},
		{"GET", "totals?from=99999999999999999999", 400, `want Unix seconds`},
		{"GET", "totals?from=5&to=4", 400, "parameter to is 4: want a time that is not before from, which is 5"},
		{"GET", "totals?from=5&from=6", 400, "parameter from is given 2 times: want it once"},
		{"GET", "totals?by=pod", 400, `parameter by is "pod": want queue, namespace, user, workload, class, product, profile, currency or label:<key>`},
		{"GET", "totals?by=label:", 400, `parameter by is "label:"`},
		{"GET", "totals?bucket=week", 400, `parameter bucket is "week": want hour, day, month, or none`},
		{"GET", "totals?timeZone=Mars/Base", 400, `parameter timeZone is "Mars/Base"`},
		{"GET", "totals?timeZone=Local", 400, `parameter timeZone is "Local"`},
		{"GET", "totals?timeZone=../../etc/passwd", 400, `parameter timeZone is`},
		{"GET", "totals?open=1", 400, `parameter open is "1": want true or false`},
		{"GET", "totals?labelIs=a", 400, "parameter labelIs is given without label: want both"},
		{"GET", "totals?" + strings.Repeat("queue=a&", maxValues+1) + "from=1", 400, "parameter queue is given 1001 times: want at most 1000"},
		{"GET", "totals?queue=" + strings.Repeat("a", maxBytes+1), 400, "parameter queue is 1025 bytes long: want at most 1024"},
		{"GET", "asof?from=1", 400, `parameter "from" is not known here`},
		{"GET", "charged?queue=a", 400, `parameter "queue" is not known here: want from, to`},
		{"GET", "rows", 404, "/ledger/v1/rows is not served: want /ledger/v1/asof, totals, charged or segments"},
		{"POST", "asof", 405, "method POST: want GET, the ledger is only read here"},
		{"DELETE", "segments", 405, "method DELETE"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tc.method, server.URL+Prefix+tc.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answered, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var body errorBody
		err = json.NewDecoder(answered.Body).Decode(&body)
		answered.Body.Close()
		if err != nil || answered.StatusCode != tc.status || !strings.Contains(body.Error, tc.want) {
			t.Errorf("%s %.60s: %d %q, %v, want %d %q", tc.method, tc.path, answered.StatusCode, body.Error, err, tc.status, tc.want)
		}
	}
}

// TestWhatIsKnownIsWhatTheLedgerKnows: the handler refuses what the ledger would refuse, and nothing else.
func TestWhatIsKnownIsWhatTheLedgerKnows(t *testing.T) {
	db := store(t)
	for _, d := range append(Dimensions(), "label:team", "label:", "pod", "", "Queue") {
		_, err := db.Totals(t.Context(), ledger.Query{}, []ledger.Dimension{ledger.Dimension(d)}, "", "")
		if (err == nil) != KnownDimension(ledger.Dimension(d)) {
			t.Errorf("dimension %q: the ledger says %v", d, err)
		}
	}
}

// broken is a reader that fails after some rows.
type broken struct {
	Reader
	rows int
}

var errBroken = errors.New("the disk is gone")

func (b broken) Segments(context.Context, ledger.Query) iter.Seq2[ledger.Segment, error] {
	return func(yield func(ledger.Segment, error) bool) {
		for i := range b.rows {
			if !yield(ledger.Segment{PodUID: "u", Number: int32(i)}, nil) {
				return
			}
		}
		yield(ledger.Segment{}, errBroken)
	}
}

func (broken) Totals(context.Context, ledger.Query, []ledger.Dimension, string, string) ([]ledger.Total, error) {
	return nil, fmt.Errorf("%w: of all", ledger.ErrOverflow)
}

func (broken) AsOf(context.Context) (int64, error) { return 0, errBroken }

// TestAPartIsNotTakenForTheWhole: also when the server fails in the midst of an answer.
func TestAPartIsNotTakenForTheWhole(t *testing.T) {
	for _, rows := range []int{0, 1, flushRows, 3*flushRows + 1} {
		c := client(t, broken{rows: rows})
		n := 0
		var last error
		for _, err := range c.Segments(t.Context(), ledger.Query{}) {
			if last = err; err == nil {
				n++
			}
		}
		if !errors.Is(last, ErrRefused) || !strings.Contains(last.Error(), errBroken.Error()) || n != rows {
			t.Errorf("after %d of %d rows: %v", n, rows, last)
		}
	}
	c := client(t, broken{})
	var refused *RefusedError
	if _, err := c.AsOf(t.Context()); !errors.As(err, &refused) || refused.Status != http.StatusInternalServerError {
		t.Errorf("as of: %v", err)
	}
	if _, err := c.Totals(t.Context(), ledger.Query{}, nil, "", ""); !errors.As(err, &refused) || refused.Status != http.StatusUnprocessableEntity {
		t.Errorf("totals: %v", err)
	}
}

// TestAnAnswerThatBreaksOff: a proxy or the network may end it without a word.
func TestAnAnswerThatBreaksOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{\"podUID\":\"a\"}\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	c, err := NewClient(server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range c.Segments(t.Context(), ledger.Query{}) {
		last = err
	}
	if !errors.Is(last, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want that it broke off", last)
	}
}

// waiting is a reader that waits to be let go.
type waiting struct {
	Reader
	inside, leave chan struct{}
}

func (w waiting) AsOf(context.Context) (int64, error) {
	w.inside <- struct{}{}
	<-w.leave
	return 1, nil
}

func TestFewAreServedAtATime(t *testing.T) {
	w := waiting{inside: make(chan struct{}), leave: make(chan struct{})}
	c := client(t, w)
	done := make(chan error, atOnce)
	for range atOnce {
		go func() {
			_, err := c.AsOf(t.Context())
			done <- err
		}()
		<-w.inside
	}
	var refused *RefusedError
	if _, err := c.AsOf(t.Context()); !errors.As(err, &refused) || refused.Status != http.StatusTooManyRequests {
		t.Errorf("one too many: %v", err)
	}
	close(w.leave)
	for range atOnce {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestWhereAServerIs(t *testing.T) {
	for server, want := range map[string]string{
		"https://h:1":            "https://h:1/ledger/v1/asof",
		"https://h/":             "https://h/ledger/v1/asof",
		"https://h/weft":         "https://h/weft/ledger/v1/asof",
		"https://h/ledger/v1/":   "https://h/ledger/v1/asof",
		"https://h/ledger/v1?x#": "https://h/ledger/v1/asof",
		"ftp://h":                "",
		"/var/lib/ledger.db":     "",
		"https://":               "",
	} {
		c, err := NewClient(server, http.DefaultClient)
		if (err != nil) != (want == "") {
			t.Errorf("%s: %v", server, err)
		}
		if c != nil && c.base.String()+"asof" != want {
			t.Errorf("%s: %s, want %s", server, c.base, want)
		}
	}
}

// TestParametersSurvive: what a client writes the handler reads.
func TestParametersSurvive(t *testing.T) {
	r := request{
		query: ledger.Query{
			From: 1, To: math.MaxInt64, Queues: []string{"", "a b"}, Namespaces: []string{"ü"}, PodUID: "u", Label: "l", LabelIs: "?&", OpenOnly: true,
			IncludeRollups: true,
		},
		by: []ledger.Dimension{"queue", "label:a/b"}, bucket: "day", timeZone: "Europe/Berlin",
	}
	values, err := url.ParseQuery(r.values().Encode())
	if err != nil {
		t.Fatal(err)
	}
	got, err := parse(values, sums)
	if diff := cmp.Diff(r, got, cmp.AllowUnexported(request{})); err != nil || diff != "" {
		t.Errorf("%v (-written +read)\n%s", err, diff)
	}
	if names := slices.Sorted(maps.Keys(values)); !slices.Equal(names, slices.Sorted(slices.Values(sums))) {
		t.Errorf("of all parameters only %v were tried", names)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("from=1&to=2&queue=&by=queue&bucket=day&timeZone=UTC")
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Skip()
		}
		r, err := parse(values, sums)
		if err != nil {
			return
		}
		if q := r.query; q.From < 0 || q.To < 0 || q.To != 0 && q.To < q.From {
			t.Errorf("%q was let through", query)
		}
	})
}

// many is a ledger with a long answer.
type many struct{ Reader }

func (many) Totals(context.Context, ledger.Query, []ledger.Dimension, string, string) ([]ledger.Total, error) {
	return make([]ledger.Total, maxTotals), nil
}

func (many) Segments(context.Context, ledger.Query) iter.Seq2[ledger.Segment, error] {
	return func(yield func(ledger.Segment, error) bool) {
		for range maxTotals {
			if !yield(ledger.Segment{Pod: "p"}, nil) {
				return
			}
		}
	}
}

// TestWhoReadsNothingIsCutOff: one who asks and reads nothing keeps no slot.
func TestWhoReadsNothingIsCutOff(t *testing.T) {
	for _, path := range []string{"totals", "segments"} {
		t.Run(path, func(t *testing.T) {
			done := make(chan struct{})
			handler := newHandler(many{}, 50*time.Millisecond)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(done)
				handler.ServeHTTP(w, r)
			}))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: x\r\n\r\n", Prefix, path); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Error("its request is still served")
			}
		})
	}
}
