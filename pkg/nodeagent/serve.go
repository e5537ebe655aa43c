package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
)

// pages is what the agent says over HTTP. It has no secrets, and takes no orders.
type pages struct {
	// alive and ready are nil when the agent is; else they say why it is not.
	alive, ready func() error
	// allocations is who holds and held the node's GPUs, for JSON.
	allocations func() any
	metrics     metrics.Gatherer
}

func (p pages) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.HandlerFor(p.metrics, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError}))
	mux.HandleFunc("GET /healthz", verdict(p.alive))
	mux.HandleFunc("GET /readyz", verdict(p.ready))
	mux.HandleFunc("GET /allocations", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(p.allocations()); err != nil { // the reader has gone, for the value is plain
			klog.FromContext(r.Context()).V(4).Info("The allocations were not read to the end", "err", err)
		}
	})
	return mux
}

func verdict(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// serve answers on the listener until ctx ends.
func (p pages) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: p.handler(), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP on %s: %w", listener.Addr(), err)
	}
	return nil
}
