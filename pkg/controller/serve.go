package controller

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/mux"
	apiserveroptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/ledger/ledgerhttp"
)

// serving is how the ledger, /metrics, /healthz and /readyz are served: with TLS, and with the API server's word on who may read the
// first two, as kube-scheduler does. The checks are for everybody.
type serving struct {
	secure         *apiserveroptions.SecureServingOptions
	authentication *apiserveroptions.DelegatingAuthenticationOptions
	authorization  *apiserveroptions.DelegatingAuthorizationOptions
}

func newServing() serving {
	s := serving{
		secure:         apiserveroptions.NewSecureServingOptions(),
		authentication: apiserveroptions.NewDelegatingAuthenticationOptions(),
		authorization:  apiserveroptions.NewDelegatingAuthorizationOptions(),
	}
	// A certificate is made at start and kept in memory.
	s.secure.ServerCert.CertDirectory, s.secure.ServerCert.PairName = "", name
	s.secure.BindAddress, s.secure.BindPort = net.IPv4(127, 0, 0, 1), 10260
	s.authentication.TolerateInClusterLookupFailure = true
	s.authentication.RemoteKubeConfigFileOptional = true
	s.authorization.RemoteKubeConfigFileOptional = true
	return s
}

func (s serving) validate() []error {
	return append(append(s.secure.Validate(), s.authentication.Validate()...), s.authorization.Validate()...)
}

// start serves until ctx ends, the ledger too unless it is nil. Afterwards stopped waits until the last answer was given.
func (s serving) start(ctx context.Context, kubeconfig string, ready healthz.HealthChecker, books ledgerhttp.Reader) (stopped func(), err error) {
	if s.secure.BindPort == 0 {
		return func() {}, nil
	}
	// Outside of a cluster whoever asks is looked up with the same rights as everything else.
	if s.authentication.RemoteKubeConfigFile == "" {
		s.authentication.RemoteKubeConfigFile = kubeconfig
	}
	if s.authorization.RemoteKubeConfigFile == "" {
		s.authorization.RemoteKubeConfigFile = kubeconfig
	}
	if err := s.secure.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{net.IPv4(127, 0, 0, 1)}); err != nil {
		return nil, fmt.Errorf("certificate for serving: %w", err)
	}
	var info *server.SecureServingInfo
	if err := s.secure.ApplyTo(&info); err != nil {
		return nil, fmt.Errorf("--bind-address %s, --secure-port %d: %w", s.secure.BindAddress, s.secure.BindPort, err)
	}
	var authentication server.AuthenticationInfo
	if err := s.authentication.ApplyTo(&authentication, info, nil); err != nil {
		return nil, err
	}
	var authorization server.AuthorizationInfo
	if err := s.authorization.ApplyTo(&authorization); err != nil {
		return nil, err
	}

	pages := mux.NewPathRecorderMux(name)
	healthz.InstallHandler(pages)
	healthz.InstallLivezHandler(pages)
	healthz.InstallReadyzHandler(pages, ready, healthz.NewShutdownHealthz(ctx.Done()))
	pages.Handle("/metrics", legacyregistry.Handler())
	if books != nil {
		pages.HandlePrefix(ledgerhttp.Prefix, ledgerhttp.Handler(books))
	}

	requests := &apirequest.RequestInfoFactory{}
	var handler http.Handler = pages
	handler = genericapifilters.WithAuthorization(handler, authorization.Authorizer, scheme.Codecs)
	handler = genericapifilters.WithAuthentication(handler, authentication.Authenticator, genericapifilters.Unauthorized(scheme.Codecs), nil, nil)
	handler = genericapifilters.WithRequestInfo(handler, requests)
	handler = genericapifilters.WithCacheControl(handler)
	handler = genericfilters.WithHTTPLogging(handler)
	handler = genericfilters.WithPanicRecovery(handler, requests)

	done, _, err := info.Serve(handler, 5*time.Second, ctx.Done())
	if err != nil {
		return nil, fmt.Errorf("serving on %s: %w", info.Listener.Addr(), err)
	}
	klog.FromContext(ctx).Info("Serving /metrics, /healthz and /readyz", "address", info.Listener.Addr())
	return func() { <-done }, nil
}
