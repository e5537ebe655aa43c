package framework

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podgroup"
)

// api answers the requests of one scheduler: it has no object of the kinds that are read through it, takes Bindings and forgets
// statuses. Pods, nodes and ResourceSlices are not read through it; see informer.
type api struct {
	// bound is told of each Binding.
	bound func(*v1.Binding)
}

// config is for clients of it.
func (a *api) config() *rest.Config {
	return &rest.Config{Host: "http://api.invalid", Transport: a, QPS: -1}
}

// RoundTrip implements http.RoundTripper.
func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	path, query := req.URL.Path, req.URL.Query()
	switch {
	case req.Method == http.MethodPost && strings.HasSuffix(path, "/binding"):
		var b v1.Binding
		if err := json.NewDecoder(req.Body).Decode(&b); err != nil {
			return nil, fmt.Errorf("reading a Binding: %w", err)
		}
		a.bound(&b)
		return answer(req, http.StatusCreated, `{"kind":"Status","apiVersion":"v1","status":"Success"}`), nil
	case req.Method == http.MethodPatch && strings.HasSuffix(path, "/status"):
		return answer(req, http.StatusOK, `{"kind":"Pod","apiVersion":"v1"}`), nil
	case req.Method != http.MethodGet, strings.Contains(path, "/"+v1alpha1.Queues.Group+"/"), strings.Contains(path, "/"+podgroup.Resource.Group+"/"):
		return answer(req, http.StatusNotFound, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`), nil
	case query.Get("sendInitialEvents") != "": // it then lists
		return answer(req, http.StatusUnprocessableEntity, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`), nil
	case query.Get("watch") != "":
		r := answer(req, http.StatusOK, "")
		r.Body = silence{req.Context()}
		return r, nil
	default:
		return answer(req, http.StatusOK, `{"metadata":{"resourceVersion":"1"},"items":[]}`), nil
	}
}

func answer(req *http.Request, code int, body string) *http.Response {
	return &http.Response{
		StatusCode: code, ProtoMajor: 1, ProtoMinor: 1, Request: req, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)),
	}
}

// silence is the body of a watch in which nothing happens until who asked has gone.
type silence struct{ ctx context.Context }

func (s silence) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, io.EOF
}

func (silence) Close() error { return nil }
