package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
)

// ledgerEnv is the variable that counts where --ledger is not given.
const ledgerEnv = "WEFT_LEDGER"

// The controller as the manifests install it: the Lease of its leader, its Deployment and the name of its port.
const (
	controllerName = "weft-controller"
	controllerPort = "https"
)

// ledgerSource is where the ledger is.
type ledgerSource struct {
	dsn, tokenFile, caFile, namespace string
}

func (l *ledgerSource) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.dsn, "ledger", "",
		"Where the ledger is: a file of SQLite, postgres://…, or https://… of weft-controller; the default is $"+ledgerEnv+", else weft-controller in the cluster")
	f.StringVar(&l.tokenFile, "ledger-token-file", "", "A file with the bearer token for --ledger https://…")
	f.StringVar(&l.caFile, "ledger-ca-file", "", "A file with the certificates of authorities for --ledger https://…, besides those of the system")
	f.StringVar(&l.namespace, "controller-namespace", "weft-system", "The namespace of weft-controller, where the ledger is read through it")
}

// open is the ledger, to read, and what closes it.
func (l *ledgerSource) open(ctx context.Context, s *shell) (ledgerhttp.Reader, func(), error) {
	if l.dsn == "" {
		l.dsn = os.Getenv(ledgerEnv) // not the flag's default, which help would print with its password
	}
	scheme, _, found := strings.Cut(l.dsn, "://")
	switch remote := found && (scheme == "https" || scheme == "http"); {
	case remote:
		c, err := l.client()
		return c, func() {}, err
	case l.tokenFile != "" || l.caFile != "":
		return nil, nil, fmt.Errorf("--ledger-token-file and --ledger-ca-file are for --ledger https://…, found %q", l.dsn)
	case l.dsn == "":
		return l.tunnel(ctx, s)
	}
	db, err := ledger.OpenReadOnly(ctx, l.dsn)
	if err != nil {
		return nil, nil, err
	}
	return db, func() { _ = db.Close() }, nil
}

// client reads from the address that was given. The credentials of the kubeconfig are not sent there: it may be anybody's.
func (l *ledgerSource) client() (ledgerhttp.Reader, error) {
	u, err := url.Parse(l.dsn)
	if err != nil {
		return nil, fmt.Errorf("--ledger is %q: %w", l.dsn, err)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("--ledger is %q: want https, for anybody on the way could read and change the answer", l.dsn)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if l.caFile != "" {
		text, err := os.ReadFile(l.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ledger-ca-file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // some systems have none
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ledger-ca-file is %s: it has no certificate in PEM", l.caFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	var through http.RoundTripper = transport
	if l.tokenFile != "" {
		text, err := os.ReadFile(l.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--ledger-token-file: %w", err)
		}
		token := strings.TrimSpace(string(text))
		if token == "" {
			return nil, fmt.Errorf("--ledger-token-file is %s: it is empty", l.tokenFile)
		}
		through = bearer{token, transport}
	}
	return ledgerhttp.NewClient(l.dsn, &http.Client{Transport: through, CheckRedirect: stay})
}

// stay refuses redirects: the credentials would go along.
func stay(r *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the server says that the ledger is at %s: name that with --ledger", r.URL.Redacted())
}

// bearer sends a token.
type bearer struct {
	token   string
	through http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.through.RoundTrip(r)
}

// errNoLeader is where no controller can be asked.
var errNoLeader = errors.New("no weft-controller could be asked for the ledger")

// tunnel reads from the controller that leads, through a port forwarded by the API server.
func (l *ledgerSource) tunnel(ctx context.Context, s *shell) (ledgerhttp.Reader, func(), error) {
	client, err := s.client()
	if err != nil {
		return nil, nil, err
	}
	config, err := s.flags.ToRESTConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if config.Impersonate.UserName != "" {
		return nil, nil, errors.New("weft-controller does not know of --as: it would answer as to yourself; leave it out, or name the ledger with --ledger")
	}
	pod, port, err := leader(ctx, client, l.namespace)
	if err != nil {
		return nil, nil, err
	}
	forwarded, err := forward(ctx, config, pod, port)
	if err != nil {
		return nil, nil, fmt.Errorf("forwarding port %d of pod %s/%s: %w", port, pod.Namespace, pod.Name, err)
	}
	reader, err := tunnelled(config, forwarded.address)
	if err != nil {
		forwarded.close()
		return nil, nil, err
	}
	return reader, forwarded.close, nil
}

// tunnelled reads through a forwarded port with the credentials of the kubeconfig.
func tunnelled(config *rest.Config, address string) (ledgerhttp.Reader, error) {
	inside := rest.CopyConfig(config)
	inside.Host, inside.APIPath, inside.Proxy, inside.WrapTransport, inside.Dial = "https://"+address, "", nil, nil, nil
	inside.ContentConfig = rest.ContentConfig{}
	inside.Timeout = 0 // a report may take long, and the context ends it
	// The controller makes its certificate when it starts, and nobody has signed it: it cannot be checked. It need not be. The API server,
	// whose certificate was checked, has authenticated the way to the pod: the kubelet on the pod's node ends it, in that pod's network
	// namespace. What listens on the port there was put there by who may make pods in the controller's namespace, and they could read the
	// controller's key anyway.
	inside.TLSClientConfig.Insecure = true
	inside.CAFile, inside.CAData, inside.ServerName = "", nil, ""
	c, err := rest.HTTPClientFor(inside)
	if err != nil {
		return nil, fmt.Errorf("the credentials of the kubeconfig: %w", err)
	}
	c.CheckRedirect = stay
	return ledgerhttp.NewClient(inside.Host, c)
}

// leader is the pod that holds the Lease of the controller, and its port.
func leader(ctx context.Context, client kubernetes.Interface, namespace string) (*v1.Pod, int32, error) {
	lease, err := client.CoordinationV1().Leases(namespace).Get(ctx, controllerName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, 0, fmt.Errorf("%w: there is no Lease %s in namespace %s; is it installed elsewhere (--controller-namespace), or is the ledger a file (--ledger)?",
			errNoLeader, controllerName, namespace)
	case apierrors.IsForbidden(err):
		return nil, 0, fmt.Errorf("%w: %w\nsee docs/reports.md for the role that allows it, or name the ledger with --ledger", errNoLeader, err)
	case err != nil:
		return nil, 0, fmt.Errorf("%w: %w", errNoLeader, err)
	}
	holder := ""
	if lease.Spec.HolderIdentity != nil {
		// The name of the pod, and behind "_" what tells it from one before it.
		holder, _, _ = strings.Cut(*lease.Spec.HolderIdentity, "_")
	}
	if holder == "" {
		return nil, 0, fmt.Errorf("%w: nobody holds the Lease %s/%s; do its pods run?", errNoLeader, namespace, controllerName)
	}
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, holder, metav1.GetOptions{})
	if err != nil {
		return nil, 0, fmt.Errorf("%w: the Lease %s/%s is held by %s: %w", errNoLeader, namespace, controllerName, holder, err)
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == controllerPort {
				return pod, p.ContainerPort, nil
			}
		}
	}
	return nil, 0, fmt.Errorf("%w: pod %s/%s has no port named %s", errNoLeader, namespace, holder, controllerPort)
}

// pickTo is the end of what can be reported: what is not on the books yet is not known.
func pickTo(ctx context.Context, r ledgerhttp.Reader, want span) (span, int64, error) {
	asOf, err := r.AsOf(ctx)
	if err != nil {
		return want, 0, err
	}
	if asOf == 0 {
		return want, 0, errors.New("nothing was ever recorded in the ledger: does weft-controller run, and is this its ledger?")
	}
	if want.from >= asOf {
		return want, asOf, fmt.Errorf("from %s nothing is on the books yet: they end at %s", rfc3339(want.from, time.UTC), rfc3339(asOf, time.UTC))
	}
	want.to = min(cmp.Or(want.to, asOf), asOf)
	return want, asOf, nil
}
