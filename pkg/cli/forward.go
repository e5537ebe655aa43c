package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// forwarding is a port on this machine that leads to a pod's.
type forwarding struct {
	address string
	stop    chan struct{}
	done    chan error
}

func (f *forwarding) close() {
	close(f.stop)
	<-f.done
}

// forward opens a port of the pod on 127.0.0.1, as kubectl port-forward does: over WebSockets, and where the API server or a proxy
// before it does not know those, over SPDY.
func forward(ctx context.Context, config *rest.Config, pod *v1.Pod, port int32) (*forwarding, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	u := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	round, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, config)
	if err != nil {
		return nil, err
	}
	// Of the types of k8s.io/streaming: the errors are of those, whichever types the dialers have.
	direct := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: round}, http.MethodPost, u)
	dialer := portforward.NewFallbackDialerForStreaming(tunnel, direct, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	f := &forwarding{stop: make(chan struct{}), done: make(chan error, 1)}
	ready := make(chan struct{})
	// What it has to say of single connections comes back as their errors.
	forwarder, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, f.stop, ready, io.Discard, io.Discard)
	if err != nil {
		return nil, err
	}
	go func() { f.done <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-f.done:
		if err == nil {
			err = errors.New("it ended at once")
		}
		return nil, err
	case <-ctx.Done():
		f.close()
		return nil, context.Cause(ctx)
	}
	ports, err := forwarder.GetPorts()
	if err != nil || len(ports) == 0 {
		f.close()
		return nil, errors.Join(errors.New("no port was opened"), err)
	}
	f.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local)))
	return f, nil
}
