package playground

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// The hidden subcommands with which the weft-playground binary runs a server; see package child.
const (
	ChildEtcd      = "etcd"
	ChildAPIServer = "apiserver"
	ChildKWOK      = "kwok"
)

// ControlPlaneOptions says how to run etcd and kube-apiserver. The zero value is enough where weft-playground is built.
type ControlPlaneOptions struct {
	// Dir holds all state and logs. It is made where it does not exist, must be empty, and is kept. Empty means a
	// temporary directory that Stop removes.
	Dir string
	// Log gets a line per step; nil for none.
	Log io.Writer
	// Binary is the weft-playground binary, whose hidden subcommands run the servers; empty means [FindBinary].
	Binary string
	// APIServer is another kube-apiserver binary, for example of an older release; empty means the one in Binary.
	APIServer string
	// APIServerArgs are added to kube-apiserver's flags, and win where a flag is given twice.
	APIServerArgs []string
}

// ControlPlane is a running etcd and kube-apiserver.
type ControlPlane struct {
	dir    string
	binary string
	log    io.Writer
	users  *users
	ca     []byte

	etcd, apiServer *Process

	*outcome
	remove   bool
	stopOnce sync.Once
}

const (
	startTimeout = 2 * time.Minute
	// The API server drains for up to a minute on SIGTERM, and its state is thrown away: it gets just enough to end the
	// requests in flight.
	apiServerGrace = 500 * time.Millisecond
	etcdGrace      = 5 * time.Second
)

// StartControlPlane starts etcd and kube-apiserver and returns when /readyz is good, some three seconds later. ctx bounds
// the start only; afterwards they run until Stop.
//
// Authorization is RBAC, users are those of ConfigFor and Kubeconfig. Two admission plugins are off, because they count on
// a controller manager and there is none: ServiceAccount would refuse every pod in a namespace to which nobody gave a
// default service account, and it mounts a token that no container here reads; TaintNodesByCondition would give every new
// node the taint node.kubernetes.io/not-ready, which only the node lifecycle controller takes away.
func StartControlPlane(ctx context.Context, o ControlPlaneOptions) (_ *ControlPlane, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("gave up after %v", startTimeout))
	defer cancel()
	cp := &ControlPlane{binary: o.Binary, log: o.Log, outcome: newOutcome()}
	if cp.log == nil {
		cp.log = io.Discard
	}
	if cp.binary == "" {
		if cp.binary, err = FindBinary("weft-playground"); err != nil {
			return nil, err
		}
	}
	if cp.dir, cp.remove, err = makeDir(o.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cp.Stop())
		}
	}()
	if cp.users, err = newUsers(cp.dir); err != nil {
		return nil, err
	}
	if err := cp.startEtcd(ctx); err != nil {
		return nil, err
	}
	if err := cp.startAPIServer(ctx, o); err != nil {
		return nil, err
	}
	return cp, nil
}

// makeDir makes the run's directory, or a temporary one when none is named.
func makeDir(dir string) (_ string, temporary bool, _ error) {
	if dir == "" {
		dir, err := os.MkdirTemp("", "weft-playground-")
		return dir, true, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", false, fmt.Errorf("directory of the run: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", false, fmt.Errorf("directory of the run: %w", err)
	}
	if len(entries) > 0 {
		return "", false, fmt.Errorf("directory of the run: %s is not empty: name one that is, or one that does not exist", dir)
	}
	return dir, false, nil
}

func (cp *ControlPlane) startEtcd(ctx context.Context) error {
	begin := time.Now()
	port, err := reservePort()
	if err != nil {
		return err
	}
	url := "http://" + port.address()
	cp.etcd, err = startProcess(command{
		name: "etcd", path: cp.binary, dir: cp.dir, grace: etcdGrace, port: port,
		args: []string{ChildEtcd, "--data-dir", filepath.Join(cp.dir, "etcd"), "--listen-client-url", url},
	})
	if err != nil {
		return err
	}
	cp.outcome.watch(cp.etcd)
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	err = cp.etcd.waitReady(ctx, func(ctx context.Context) error { return get(ctx, client, url+"/health") })
	if err != nil {
		return err
	}
	cp.logf("etcd on %s after %.1fs", cp.etcd.Address(), time.Since(begin).Seconds())
	return nil
}

func (cp *ControlPlane) startAPIServer(ctx context.Context, o ControlPlaneOptions) error {
	begin := time.Now()
	port, err := reservePort()
	if err != nil {
		return err
	}
	certs := filepath.Join(cp.dir, "apiserver")
	path, args := cp.binary, []string{ChildAPIServer}
	if o.APIServer != "" {
		path, args = o.APIServer, nil
	}
	args = append(args,
		"--etcd-servers=http://"+cp.etcd.Address(),
		"--bind-address=127.0.0.1",
		// The default would be the address of the default route, and there may be none.
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port.number),
		"--permit-port-sharing=true",
		"--cert-dir="+certs,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+cp.users.keyFile,
		"--service-account-signing-key-file="+cp.users.keyFile,
		"--token-auth-file="+cp.users.tokenFile,
		"--authorization-mode=RBAC",
		// With these it publishes the ConfigMap extension-apiserver-authentication, which servers such as the scheduler
		// read at start and otherwise complain about every few seconds.
		"--client-ca-file="+cp.users.clientCAFile,
		"--requestheader-client-ca-file="+cp.users.frontProxyCAFile,
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
		// A loopback address cannot stand in the endpoints of the kubernetes service, and nobody looks for it.
		"--endpoint-reconciler-type=none",
		"--max-requests-inflight=4000",
		"--max-mutating-requests-inflight=2000",
	)
	cp.apiServer, err = startProcess(command{
		name: "kube-apiserver", path: path, args: append(args, o.APIServerArgs...),
		dir: cp.dir, grace: apiServerGrace, port: port,
	})
	if err != nil {
		return err
	}
	cp.outcome.watch(cp.apiServer)
	// The check goes without verification: the certificate appears while the server starts. It carries no token.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
	defer client.CloseIdleConnections()
	err = cp.apiServer.waitReady(ctx, func(ctx context.Context) error {
		return get(ctx, client, "https://"+port.address()+"/readyz")
	})
	if err != nil {
		return err
	}
	// The self-signed certificate and the CA that signed it stand in one file.
	if cp.ca, err = os.ReadFile(filepath.Join(certs, "apiserver.crt")); err != nil {
		return fmt.Errorf("certificate of kube-apiserver: %w", err)
	}
	cp.logf("kube-apiserver on %s after %.1fs", cp.apiServer.Address(), time.Since(begin).Seconds())
	return nil
}

// get asks a health endpoint; anything but 200 is an error with the body.
func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, tailBytes))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return nil
}

func (cp *ControlPlane) logf(format string, args ...any) {
	fmt.Fprintf(cp.log, format+"\n", args...)
}

// Dir is the directory of the run: logs, kubeconfigs, the data of etcd.
func (cp *ControlPlane) Dir() string { return cp.dir }

// Etcd is etcd's process.
func (cp *ControlPlane) Etcd() *Process { return cp.etcd }

// APIServer is kube-apiserver's process.
func (cp *ControlPlane) APIServer() *Process { return cp.apiServer }

// AdminConfig is the configuration of a client that may do everything (system:masters), without a limit on its rate.
func (cp *ControlPlane) AdminConfig() *rest.Config { return cp.ConfigFor(AdminUser) }

// Stop ends the servers and removes the directory unless the caller named it. It may be called more than once; a failure
// of a server is Err's, not Stop's.
func (cp *ControlPlane) Stop() error {
	var err error
	cp.stopOnce.Do(func() {
		cp.finish(nil)
		// The API server goes first: without etcd it would only log errors.
		for _, p := range []*Process{cp.apiServer, cp.etcd} {
			if p != nil {
				p.Stop()
			}
		}
		if cp.remove {
			err = os.RemoveAll(cp.dir)
		}
	})
	return err
}
