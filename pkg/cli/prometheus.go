package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// prometheus asks the HTTP API of a Prometheus, or of what speaks as one.
type prometheus struct {
	base *url.URL
	http *http.Client
}

// newPrometheus asks at the address; a name and a password in it are sent as HTTP has it.
func newPrometheus(address string, c *http.Client) (*prometheus, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("--prometheus is %q: want the address of a Prometheus, such as http://prometheus.example.com:9090", address)
	}
	return &prometheus{u.JoinPath("api/v1/query"), c}, nil
}

// sample is one series at one moment.
type sample struct {
	labels map[string]string
	value  float64
}

// maxSamples bounds an answer in bytes: half a million series.
const maxSamples = 256 << 20

// query is the value of an expression now: a vector without what is no number.
func (p *prometheus) query(ctx context.Context, expression string) ([]sample, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base.String(), strings.NewReader(url.Values{"query": {expression}}.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answered, err := p.http.Do(r)
	if err != nil {
		// Without the address, which may have a password in it.
		if failed := (*url.Error)(nil); errors.As(err, &failed) {
			err = failed.Err
		}
		return nil, fmt.Errorf("prometheus at %s: %w", p.base.Host, err)
	}
	defer answered.Body.Close()
	var body struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   struct {
			ResultType string `json:"resultType"`
			Result     []struct {
				Metric map[string]string  `json:"metric"`
				Value  [2]json.RawMessage `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	err = json.NewDecoder(io.LimitReader(answered.Body, maxSamples)).Decode(&body)
	switch {
	case body.Status == "error":
		return nil, fmt.Errorf("prometheus at %s does not answer %s: %s", p.base.Host, expression, body.Error)
	case answered.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("prometheus at %s: %s", p.base.Host, answered.Status)
	case err != nil:
		return nil, fmt.Errorf("prometheus at %s answers what is none of its API: %w", p.base.Host, err)
	case body.Data.ResultType != "vector":
		return nil, fmt.Errorf("prometheus at %s answers %s with a %q: want a vector", p.base.Host, expression, body.Data.ResultType)
	}
	var out []sample
	for _, s := range body.Data.Result {
		var text string
		if err := json.Unmarshal(s.Value[1], &text); err != nil {
			return nil, fmt.Errorf("prometheus at %s: a value is %s: want a string", p.base.Host, s.Value[1])
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, fmt.Errorf("prometheus at %s: a value is %q: want a number", p.base.Host, text)
		}
		if math.IsNaN(value) || math.IsInf(value, 0) {
			continue
		}
		out = append(out, sample{s.Metric, value})
	}
	return out, nil
}
