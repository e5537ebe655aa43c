package cli

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
)

const testToken = "the-token-of-eve"

// controller serves a ledger as weft-controller does, to those with the token.
func controller(t *testing.T, path string) *httptest.Server {
	t.Helper()
	db, err := ledger.OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	h := ledgerhttp.Handler(db)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+testToken {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

// apiServer has one Lease and one pod, of which it forwards the port to the address. Over WebSockets it forwards nothing, as API servers
// behind some proxies.
type apiServer struct {
	t         *testing.T
	queues    []v1alpha1.Queue
	lease     *coordinationv1.Lease
	pod       *v1.Pod
	to        string
	forwarded atomic.Int32
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	give := func(object any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object)
	}
	switch path := r.URL.Path; {
	case a.lease != nil && path == "/apis/coordination.k8s.io/v1/namespaces/weft-system/leases/weft-controller":
		give(a.lease)
	case a.pod != nil && path == "/api/v1/namespaces/weft-system/pods/"+a.pod.Name:
		give(a.pod)
	case a.pod != nil && path == "/api/v1/namespaces/weft-system/pods/"+a.pod.Name+"/portforward" && r.Method == http.MethodPost:
		a.forward(w, r)
	case a.queues != nil && path == "/apis/weft.sh/v1alpha1/queues":
		list := v1alpha1.QueueList{Items: a.queues}
		list.APIVersion, list.Kind = v1alpha1.SchemeGroupVersion.String(), "QueueList"
		give(list)
	case path == "/api/v1/namespaces":
		give(v1.NamespaceList{TypeMeta: metav1.TypeMeta{Kind: "NamespaceList", APIVersion: "v1"}})
	case strings.HasSuffix(path, "/portforward"):
		http.Error(w, "no WebSockets here", http.StatusBadRequest)
	default:
		w.WriteHeader(http.StatusNotFound)
		give(metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: 404,
			Message: path + " not found",
		})
	}
}

// forward copies between the streams of a connection and the address, as a kubelet does.
func (a *apiServer) forward(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		a.t.Error(err)
		return
	}
	streams := make(chan httpstream.Stream, 16)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if connection == nil {
		return
	}
	defer connection.Close()
	errorStreams := map[string]httpstream.Stream{}
	for {
		select {
		case <-connection.CloseChan():
			return
		case s := <-streams:
			request := s.Headers().Get(v1.PortForwardRequestIDHeader)
			if s.Headers().Get(v1.StreamType) == v1.StreamTypeError {
				errorStreams[request] = s
				continue
			}
			if port := s.Headers().Get(v1.PortHeader); port != "10260" {
				a.t.Errorf("port %s", port)
			}
			a.forwarded.Add(1)
			errorStream := errorStreams[request]
			go func() {
				defer errorStream.Close()
				defer s.Close()
				backend, err := net.Dial("tcp", a.to)
				if err != nil {
					fmt.Fprint(errorStream, err)
					return
				}
				defer backend.Close()
				go func() { _, _ = io.Copy(backend, s) }()
				_, _ = io.Copy(s, backend)
			}()
		}
	}
}

// kubeconfig is a file that names the server, with the token.
func kubeconfig(t *testing.T, server *httptest.Server) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: server.URL, CertificateAuthorityData: certificate(server)}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: testToken}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func certificate(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func heldBy(holder string) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{Kind: "Lease", APIVersion: "coordination.k8s.io/v1"}, ObjectMeta: metav1.ObjectMeta{Name: controllerName},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder},
	}
}

func controllerPod(name, port string) *v1.Pod {
	return &v1.Pod{
		TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: "weft-system", Name: name},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "controller", Ports: []v1.ContainerPort{{Name: port, ContainerPort: 10260}}}}},
	}
}

// TestWhereverTheLedgerIsTheReportIsTheSame: a file, the API of the controller at an address, and through the API server.
func TestWhereverTheLedgerIsTheReportIsTheSame(t *testing.T) {
	t.Setenv(ledgerEnv, "")
	path := randomLedger(t, 6)
	backend := controller(t, path)
	api := &apiServer{t: t, lease: heldBy("weft-controller-7d9_0b3c"), pod: controllerPod("weft-controller-7d9", "https"), to: backend.Listener.Addr().String()}
	server := httptest.NewTLSServer(api)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca")
	if err := errors.Join(os.WriteFile(token, []byte(testToken+"\n"), 0o600), os.WriteFile(ca, certificate(backend), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"report", "--from", "1970", "--by", "queue,user", "--bucket", "day", "-o", "csv"},
		{"report", "segments", "--from", "1970", "-o", "json"},
		{"report", "segments", "--from", "2026-11-03", "--to", "2026-11-04", "--queue", "research", "--where", "user=eve"},
	} {
		want, err := weft(t, append(args, "--ledger", path)...)
		if err != nil {
			t.Fatal(err)
		}
		for name, source := range map[string][]string{
			"at an address":          {"--ledger", backend.URL, "--ledger-token-file", token, "--ledger-ca-file", ca},
			"through the API server": {"--kubeconfig", kubeconfig(t, server)},
		} {
			got, err := weft(t, append(args, source...)...)
			if err != nil || got != want {
				t.Errorf("%v, %s: %v, the same: %t", args, name, err, got == want)
			}
		}
	}
	if api.forwarded.Load() == 0 {
		t.Error("nothing was forwarded")
	}
}

// TestTreesAreTheClusters: the parents of queues are those that the API server has.
func TestTreesAreTheClusters(t *testing.T) {
	queue := func(name, parent string) v1alpha1.Queue {
		q := v1alpha1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.QueueSpec{Parent: parent}}
		q.APIVersion, q.Kind = v1alpha1.SchemeGroupVersion.String(), "Queue"
		return q
	}
	for name, tc := range map[string]struct {
		queues []v1alpha1.Queue
		want   []string
	}{
		"two levels": {[]v1alpha1.Queue{queue("org", ""), queue("research", "org"), queue("serving", "org")}, []string{
			"0 ", "0 gone", "0 org", "1 research", "1 serving",
		}},
		"a parent that was never used": {[]v1alpha1.Queue{queue("org", "top"), queue("research", "org"), queue("top", "")}, []string{
			"0 ", "0 gone", "0 serving", "0 top", "1 org", "2 research",
		}},
		"no definition of Queue": {nil, []string{"0 ", "0 gone", "0 org", "0 research", "0 serving"}},
	} {
		server := httptest.NewTLSServer(&apiServer{t: t, queues: tc.queues})
		out, err := weft(t, "report", "--tree", "--from", "1970", "-o", "json", "--ledger", randomLedger(t, 8), "--kubeconfig", kubeconfig(t, server))
		server.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var u Usage
		if err := json.Unmarshal([]byte(out), &u); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range u.Lines {
			if line := fmt.Sprintf("%d %s", l.Depth, l.Key[0]); !slices.Contains(got, line) {
				got = append(got, line)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

func TestWhereThereIsNoLedger(t *testing.T) {
	t.Setenv(ledgerEnv, "")
	backend := controller(t, randomLedger(t, 7))
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for name, tc := range map[string]struct {
		api  *apiServer
		args []string
		want string
	}{
		"no Lease":        {&apiServer{}, nil, "there is no Lease weft-controller in namespace weft-system; is it installed elsewhere (--controller-namespace)"},
		"nobody leads":    {&apiServer{lease: heldBy("")}, nil, "nobody holds the Lease weft-system/weft-controller; do its pods run?"},
		"its pod is gone": {&apiServer{lease: heldBy("a_b")}, nil, "the Lease weft-system/weft-controller is held by a:"},
		"no such port":    {&apiServer{lease: heldBy("a_b"), pod: controllerPod("a", "http")}, nil, "pod weft-system/a has no port named https"},
		"nobody listens": {
			&apiServer{lease: heldBy("a_b"), pod: controllerPod("a", "https"), to: strings.TrimPrefix(closed.URL, "http://")}, nil, "EOF",
		},
		"as somebody else": {&apiServer{}, []string{"--as", "mallory"}, "weft-controller does not know of --as"},
		"an address without a token": {
			&apiServer{},
			[]string{"--ledger", backend.URL, "--ledger-ca-file", "CA"},
			"the ledger was not read: the server does not let you (401 Unauthorized): it wants the verb get on /ledger/v1/*",
		},
		"nobody at the address":            {&apiServer{}, []string{"--ledger", closed.URL}, "asking " + strings.TrimPrefix(closed.URL, "http://") + " for the ledger: dial tcp"},
		"a certificate that nobody signed": {&apiServer{}, []string{"--ledger", backend.URL}, "certificate signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			ca := filepath.Join(t.TempDir(), "ca")
			if err := os.WriteFile(ca, certificate(backend), 0o600); err != nil {
				t.Fatal(err)
			}
			tc.api.t = t
			server := httptest.NewTLSServer(tc.api)
			defer server.Close()
			args := []string{"report", "--kubeconfig", kubeconfig(t, server)}
			for _, a := range tc.args {
				if a == "CA" {
					a = ca
				}
				args = append(args, a)
			}
			_, err := weft(t, args...)
			// What can be done about it is another thing than for an API server that cannot be reached.
			if err = Advise(err); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "check --kubeconfig") {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// TestTheVariableNamesTheLedger: and its password is not printed.
func TestTheVariableNamesTheLedger(t *testing.T) {
	path := randomLedger(t, 9)
	want, err := weft(t, "report", "--from", "1970", "--ledger", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(ledgerEnv, path)
	if got, err := weft(t, "report", "--from", "1970"); err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
	t.Setenv(ledgerEnv, "postgres://weft:secret@127.0.0.1:1/weft")
	if help, err := weft(t, "report", "--help"); err != nil || strings.Contains(help, "secret") {
		t.Errorf("%v\n%s", err, help)
	}
	if _, err := weft(t, "report"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// TestCredentialsStayWhereTheyBelong: those of the kubeconfig are not sent to an address that is named, nor any where that redirects.
func TestCredentialsStayWhereTheyBelong(t *testing.T) {
	var sent atomic.Value
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent.Store(r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNotFound)
	}))
	defer other.Close()
	server := httptest.NewTLSServer(&apiServer{t: t})
	defer server.Close()
	if _, err := weft(t, "report", "--kubeconfig", kubeconfig(t, server), "--ledger", other.URL); err == nil || !strings.Contains(err.Error(), "the server has no ledger (404)") {
		t.Error(err)
	}
	if sent.Load() != "" {
		t.Errorf("sent %v", sent.Load())
	}
	sent.Store("nothing")
	redirects := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer redirects.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(testToken), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := weft(t, "report", "--ledger", redirects.URL, "--ledger-token-file", token); err == nil || !strings.Contains(err.Error(), "name that with --ledger") {
		t.Error(err)
	}
	if sent.Load() != "nothing" {
		t.Errorf("followed, with %v", sent.Load())
	}
}
