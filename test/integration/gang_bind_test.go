package integration

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// instead puts a proxy between the API server and the scheduler that is started next. Where the function answers, the request
// goes no further.
func (c *cluster) instead(name string, answer func(*http.Request) (code int, body string)) {
	c.t.Helper()
	direct := c.cp.ConfigFor(playground.SchedulerUser)
	transport, err := rest.TransportFor(direct)
	if err != nil {
		c.t.Fatal(err)
	}
	target, err := url.Parse(direct.Host)
	if err != nil {
		c.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // watches
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code, body := answer(r); code != 0 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	c.t.Cleanup(server.Close)
	c.t.Cleanup(server.CloseClientConnections) // first: Close waits for the watches
	kubeconfig, err := clientcmd.LoadFromFile(c.options.Kubeconfig)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, cl := range kubeconfig.Clusters {
		cl.Server, cl.CertificateAuthorityData = server.URL, nil
	}
	c.options.Kubeconfig = filepath.Join(c.cp.Dir(), name+".kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, c.options.Kubeconfig); err != nil {
		c.t.Fatal(err)
	}
	c.options.Config = c.schedulerConfig(c.options.Kubeconfig)
}

const forbidden = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"not now","code":403}`

// TestABindThatFailsIsTriedAgainOnTheSameGPUs refuses the first binding of every third member, and while those wait for their
// next attempt other pods want their GPUs. It also counts what the scheduler writes for a gang.
func TestABindThatFailsIsTriedAgainOnTheSameGPUs(t *testing.T) {
	const nodes = "h100=2"
	c := startCluster(t, nodes)
	var mu sync.Mutex
	tried := map[string]int{}
	writes := map[string]int{}
	var asked []string // what each binding of a refused pod asked for
	refused := map[string]string{}
	c.instead("refusing", func(r *http.Request) (int, string) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/pods/") {
			writes[r.Method+" "+r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]++
		}
		if !strings.HasSuffix(r.URL.Path, "/binding") || !strings.Contains(r.URL.Path, "/train-") {
			return 0, ""
		}
		tried[r.URL.Path]++
		if len(tried)%3 != 0 || tried[r.URL.Path] > 1 {
			return 0, ""
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked = append(asked, string(body))
		refused[strings.Split(r.URL.Path, "/")[6]] = string(body)
		return http.StatusForbidden, forbidden
	})
	audit := newAudit(t, nodes)
	stop := audit.watch(c)
	c.startScheduler()
	c.gang("train", 16, 1)
	for range 20 {
		o := playground.Pod{GPUs: 1}.Object()
		o.GenerateName = "other-"
		c.create(o)
	}
	pods := c.started("train", 16, 60*time.Second)
	stop()
	c.neverPartial()
	mu.Lock()
	defer mu.Unlock()
	if len(refused) < 4 {
		t.Fatalf("only %d bindings were refused", len(refused))
	}
	for _, p := range pods {
		body, was := refused[p.Name]
		a, err := gpu.ParseAssignment(p.Annotations[podspec.AnnotationGPUs])
		if err != nil {
			t.Fatal(err)
		}
		if id := string(a.Containers[0].Grants[0].GPU); was && !(strings.Contains(body, id) && strings.Contains(body, p.Spec.NodeName)) {
			t.Errorf("%s was refused with %q and is bound to %s with %s", p.Name, body, p.Spec.NodeName, id)
		}
	}
	t.Logf("%d bindings refused; writes to pods by kind: %v", len(asked), writes)
}
