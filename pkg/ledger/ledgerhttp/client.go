package ledgerhttp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"weft.sh/weft/pkg/ledger"
)

// ErrRefused is an answer of the server that is not what was asked for. It is a [*RefusedError].
var ErrRefused = errors.New("the ledger was not read")

// RefusedError is what the server said instead.
type RefusedError struct {
	// Status is that of HTTP; 200 where it went wrong in the midst of an answer.
	Status  int
	Message string
}

func (e *RefusedError) Error() string {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("%v: the server does not let you (%d %s): it wants the verb get on %s*: %s",
			ErrRefused, e.Status, http.StatusText(e.Status), Prefix, e.Message)
	case http.StatusNotFound:
		return fmt.Sprintf("%v: the server has no ledger (404): %s", ErrRefused, e.Message)
	}
	return fmt.Sprintf("%v: %s", ErrRefused, e.Message)
}

// Unwrap is ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// maxAnswer bounds what is read of an answer that is no stream, in bytes, and maxLine a line of one.
const (
	maxAnswer = 256 << 20
	maxLine   = 1 << 20
)

// Client reads a ledger that a [Handler] serves. It is safe for concurrent use.
type Client struct {
	base *url.URL
	http *http.Client
}

var _ Reader = (*Client)(nil)

// NewClient reads from a server such as https://10.0.0.7:10260; a path is where [Prefix] is below. The HTTP client brings the credentials.
func NewClient(server string, c *http.Client) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is no address of a ledger: want https://HOST[:PORT]", server)
	}
	base := *u
	base.Path, base.RawPath, base.RawQuery, base.Fragment = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(Prefix, "/"))+Prefix, "", "", ""
	return &Client{base: &base, http: c}, nil
}

// get asks, and returns an answer that is OK.
func (c *Client) get(ctx context.Context, path string, r request) (*http.Response, error) {
	u := *c.base
	u.Path += path
	u.RawQuery = r.values().Encode()
	asked, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	answered, err := c.http.Do(asked)
	if err != nil {
		// Without the address, which has all that was asked for in it.
		if failed := (*url.Error)(nil); errors.As(err, &failed) {
			err = failed.Err
		}
		return nil, fmt.Errorf("asking %s for the ledger: %w", c.base.Host, err)
	}
	if answered.StatusCode == http.StatusOK {
		return answered, nil
	}
	defer answered.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answered.Body, 64<<10)) // the status says enough without it
	var body errorBody
	if json.Unmarshal(text, &body) != nil || body.Error == "" {
		body.Error = answered.Status + ": " + clip(strings.TrimSpace(string(text)))
	}
	return nil, &RefusedError{Status: answered.StatusCode, Message: body.Error}
}

// read asks for something that is no stream.
func (c *Client) read(ctx context.Context, path string, r request, into any) error {
	answered, err := c.get(ctx, path, r)
	if err != nil {
		return err
	}
	defer answered.Body.Close()
	if err := json.NewDecoder(io.LimitReader(answered.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("the answer of %s: %w", c.base.Host, err)
	}
	return nil
}

// AsOf implements Reader.
func (c *Client) AsOf(ctx context.Context) (int64, error) {
	var body asOfBody
	err := c.read(ctx, "asof", request{}, &body)
	return body.AsOf, err
}

// Charged implements Reader.
func (c *Client) Charged(ctx context.Context, from, to int64) (map[string]int64, error) {
	var body chargedBody
	if err := c.read(ctx, "charged", request{query: ledger.Query{From: from, To: to}}, &body); err != nil {
		return nil, err
	}
	return body.Charged, nil
}

// Totals implements Reader.
func (c *Client) Totals(ctx context.Context, q ledger.Query, by []ledger.Dimension, bucket, timeZone string) ([]ledger.Total, error) {
	var body totalsBody
	if err := c.read(ctx, "totals", request{q, by, bucket, timeZone}, &body); err != nil {
		return nil, err
	}
	out := make([]ledger.Total, 0, len(body.Totals))
	for _, t := range body.Totals {
		out = append(out, ledger.Total(t))
	}
	return out, nil
}

// Segments implements Reader. IncludeRollups means nothing for segments, as in the ledger.
func (c *Client) Segments(ctx context.Context, q ledger.Query) iter.Seq2[ledger.Segment, error] {
	return func(yield func(ledger.Segment, error) bool) {
		q.IncludeRollups = false
		answered, err := c.get(ctx, "segments", request{query: q})
		if err != nil {
			yield(ledger.Segment{}, err)
			return
		}
		defer answered.Body.Close()
		lines := bufio.NewScanner(answered.Body)
		lines.Buffer(make([]byte, 0, 64<<10), maxLine)
		for lines.Scan() {
			var l line
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				yield(ledger.Segment{}, fmt.Errorf("a line of the answer of %s: %w", c.base.Host, err))
				return
			}
			if l.Error != "" {
				yield(ledger.Segment{}, &RefusedError{Status: http.StatusOK, Message: l.Error})
				return
			}
			if !yield(l.toLedger(), nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(ledger.Segment{}, fmt.Errorf("the answer of %s broke off: %w", c.base.Host, err))
		}
	}
}
