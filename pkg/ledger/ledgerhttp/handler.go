package ledgerhttp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"weft.sh/weft/pkg/ledger"
)

const (
	// atOnce is how many requests are served at a time, of all who ask.
	atOnce = 4
	// stall is how long one who reads may take for a piece of what is sent.
	stall = 30 * time.Second
	// flushRows is how many rows are sent at once.
	flushRows = 500
	// maxTotals is how many lines of a report are sent. Who needs more asks for a part of them at a time.
	maxTotals = 200_000
)

// Handler serves the reader below [Prefix]. It reads only, and asks nobody for credentials.
func Handler(reader Reader) http.Handler {
	return newHandler(reader, stall)
}

func newHandler(reader Reader, stall time.Duration) http.Handler {
	h := &handler{reader: reader, slots: make(chan struct{}, atOnce), stall: stall}
	mux := http.NewServeMux()
	for path, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"asof": h.asOf, "totals": h.totals, "charged": h.charged, "segments": h.segments,
	} {
		mux.HandleFunc(Prefix+path, h.guarded(serve))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Sprintf("%s is not served: want %sasof, totals, charged or segments", clip(r.URL.Path), Prefix))
	})
	return mux
}

type handler struct {
	reader Reader
	slots  chan struct{}
	// stall is how long one who reads may take for a piece.
	stall time.Duration
}

// pace writes in pieces, and gives who reads so long for each of them: an answer of any length reaches who is slow, and who reads nothing is
// cut off, for he has a slot, and of segments a snapshot of the database.
type pace struct {
	w     http.ResponseWriter
	stall time.Duration
}

// piece is small beside what a connection holds back.
const piece = 64 << 10

func (p pace) Write(text []byte) (n int, err error) {
	for len(text) > 0 && err == nil {
		p.begin()
		var wrote int
		wrote, err = p.w.Write(text[:min(len(text), piece)])
		n, text = n+wrote, text[wrote:]
	}
	p.rest()
	return n, err
}

// begin begins the time of a piece, and rest ends it: what is read from the ledger next may take its time. Not all writers have deadlines;
// those of a server do.
func (p pace) begin() { _ = http.NewResponseController(p.w).SetWriteDeadline(time.Now().Add(p.stall)) }
func (p pace) rest()  { _ = http.NewResponseController(p.w).SetWriteDeadline(time.Time{}) }

// badRequest is an error that who asks can mend.
type badRequest struct{ error }

// guarded serves requests that read, few at a time.
func (h *handler) guarded(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, fmt.Sprintf("method %s: want GET, the ledger is only read here", clip(r.Method)))
			return
		}
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		default:
			w.Header().Set("Retry-After", "5")
			refuse(w, http.StatusTooManyRequests, fmt.Sprintf("%d others read the ledger: try again in a few seconds", atOnce))
			return
		}
		err := serve(w, r)
		pace{w, h.stall}.begin() // for what the server writes when this returns
		var bad badRequest
		switch {
		case err == nil:
		case errors.As(err, &bad):
			refuse(w, http.StatusBadRequest, err.Error())
		case errors.Is(err, ledger.ErrOverflow):
			refuse(w, http.StatusUnprocessableEntity, err.Error())
		default:
			refuse(w, http.StatusInternalServerError, err.Error())
		}
	}
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Who asked may be gone, and there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(errorBody{message})
}

func (h *handler) answer(w http.ResponseWriter, body any) error {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(pace{w, h.stall}).Encode(body) // as in refuse
	return nil
}

func (h *handler) asOf(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r.URL.Query(), nil); err != nil {
		return badRequest{err}
	}
	asOf, err := h.reader.AsOf(r.Context())
	if err != nil {
		return err
	}
	return h.answer(w, asOfBody{asOf})
}

func (h *handler) charged(w http.ResponseWriter, r *http.Request) error {
	asked, err := parse(r.URL.Query(), times)
	if err != nil {
		return badRequest{err}
	}
	charged, err := h.reader.Charged(r.Context(), asked.query.From, asked.query.To)
	if err != nil {
		return err
	}
	return h.answer(w, chargedBody{charged})
}

func (h *handler) totals(w http.ResponseWriter, r *http.Request) error {
	asked, err := parse(r.URL.Query(), sums)
	if err != nil {
		return badRequest{err}
	}
	lines, err := h.reader.Totals(r.Context(), asked.query, asked.by, asked.bucket, asked.timeZone)
	if err != nil {
		return err
	}
	if len(lines) > maxTotals {
		return badRequest{fmt.Errorf("the answer has %d lines: want at most %d, of a shorter time, by less, or in larger buckets", len(lines), maxTotals)}
	}
	body := totalsBody{Totals: make([]total, 0, len(lines))}
	for _, t := range lines {
		body.Totals = append(body.Totals, total(t))
	}
	return h.answer(w, body)
}

func (h *handler) segments(w http.ResponseWriter, r *http.Request) error {
	asked, err := parse(r.URL.Query(), selections)
	if err != nil {
		return badRequest{err}
	}
	control := http.NewResponseController(w)
	p := pace{w, h.stall}
	out := bufio.NewWriterSize(p, piece)
	encoder := json.NewEncoder(out)
	rows := 0
	flush := func() error {
		if err := out.Flush(); err != nil {
			return err
		}
		p.begin()
		_ = control.Flush()
		p.rest()
		return nil
	}
	for s, err := range h.reader.Segments(r.Context(), asked.query) {
		if err != nil {
			if rows == 0 {
				return err
			}
			_ = encoder.Encode(errorBody{err.Error()})
			_ = flush()
			// The one way to say that the answer is not whole once it has begun.
			panic(http.ErrAbortHandler)
		}
		if rows == 0 {
			w.Header().Set("Content-Type", "application/jsonl")
		}
		if err := encoder.Encode(FromLedger(s)); err != nil {
			return nil // who asked is gone
		}
		if rows++; rows%flushRows == 0 && flush() != nil {
			return nil
		}
	}
	if rows == 0 {
		w.Header().Set("Content-Type", "application/jsonl")
	}
	_ = flush()
	return nil
}
