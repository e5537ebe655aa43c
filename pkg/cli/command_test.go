package cli

import (
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// run runs the command without a cluster.
func run(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	streams, _, stdout, stderr := genericiooptions.NewTestIOStreams()
	cmd := NewCommand("weft", streams)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	if stderr.Len() > 0 {
		t.Errorf("weft %v wrote to the standard error: %s", args, stderr)
	}
	return stdout.String(), err
}

func TestMistakesAreErrorsThatSayWhatIsAccepted(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"tops"}, `unknown command "tops"`},
		{[]string{"top", "extra"}, `unknown command "extra" for "weft top"`},
		{[]string{"top", "--no-such-flag"}, "see weft top --help"},
		{[]string{"top", "-o", "xml"}, `--output is "xml": want one of wide, json, yaml`},
		{[]string{"top", "--detail", "pixel"}, `--detail is "pixel": want one of auto, gpu, node, class`},
		{[]string{"top", "-l", "a in"}, `--selector is "a in"`},
		{[]string{"why"}, "0 arguments: want the name of one pod, or podgroup/NAME"},
		{[]string{"why", "a", "b"}, "2 arguments: want the name of one pod, or podgroup/NAME"},
		{[]string{"why", "podgroup/"}, `"podgroup/" is no name of a PodGroup: want podgroup/NAME or podgroup/NAMESPACE/NAME`},
		{[]string{"why", "pg/ml/a", "-n", "web"}, "ml/a is in namespace ml, and --namespace is web: want one of them"},
		{[]string{"top", "--gangs", "--level", "row"}, `--level is "row": want one of nvlink, nvidia.com/gpu.clique`},
		{[]string{"top", "--level", "row", "--topology-levels="}, `--level is "row": want none, for --topology-levels is empty`},
		{[]string{"why", "pod/"}, `"" is no name of a pod`},
		{[]string{"why", "ml/a/b"}, `"ml/a/b" is no name of a pod: want POD, pod/POD or NAMESPACE/POD`},
		{[]string{"why", "ml/"}, `"ml/" is no name of a pod`},
		{[]string{"why", "ml/a", "-n", "web"}, "ml/a is in namespace ml, and --namespace is web: want one of them"},
		{[]string{"why", "a", "-o", "wide"}, `--output is "wide": want one of json, yaml`},
		{[]string{"queue", "a", "b"}, "accepts at most 1 arg(s), received 2"},
		{[]string{"queue", "queue/"}, `"queue/" is no name of a queue`},
		{[]string{"queue", "-o", "csv"}, `--output is "csv": want one of json, yaml`},
		{[]string{"report", "rows"}, `unknown command "rows" for "weft report"`},
		{[]string{"report", "-o", "xml"}, `--output is "xml": want one of json, yaml, csv, focus`},
		{[]string{"report", "--by", "queue,pod"}, `--by has "pod": want queue, namespace, user, workload, class, product, profile, currency or label:KEY`},
		{[]string{"report", "--by", "user,user"}, "--by has user twice"},
		{[]string{"report", "--bucket", "week"}, `--bucket is "week": want hour, day or month`},
		{[]string{"report", "--tree", "--by", "user"}, "--tree needs the dimension queue, --by is user"},
		{[]string{"report", "--tree", "-o", "focus"}, "-o focus has lines that add up, and those of --tree do not"},
		{[]string{"report", "--explain", "-o", "focus"}, "-o focus has no column for --explain"},
		{[]string{"report", "--period", "week"}, `--period: "week" is no period: want this-month, last-month`},
		{[]string{"report", "--from", "soon"}, `--from: "soon" is no time: want RFC 3339`},
		{[]string{"report", "--to", "2026-13"}, `--to: "2026-13" is no time`},
		{[]string{"report", "--from", "2026-11", "--to", "2026-10"}, "--to is 2026-11-01T00:00:00Z: want a time after --from, which is 2026-11-01T00:00:00Z"},
		{[]string{"report", "--from", "2026-11", "--period", "today"}, `--period is "today", and --from or --to is given: want one of them`},
		{[]string{"report", "--time-zone", "Local"}, `--time-zone is "Local": want UTC or a name such as Europe/Berlin`},
		{[]string{"report", "-l", "=a"}, `--selector is "=a": want KEY or KEY=VALUE`},
		{[]string{"report", "--ledger", "mysql://h/d"}, "a DSN begins with sqlite:// or postgres://, or is a path; found mysql://"},
		{[]string{"report", "--ledger", "/none/ledger.db"}, "/none/ledger.db: no such file or directory"},
		{[]string{"report", "--ledger", "http://ledger.example.com"}, "want https, for anybody on the way could read and change the answer"},
		{[]string{"report", "--ledger", "a.db", "--ledger-token-file", "t"}, "--ledger-token-file and --ledger-ca-file are for --ledger https://…"},
		{[]string{"report", "--ledger", "https://h", "--ledger-ca-file", "/none"}, "--ledger-ca-file: open /none"},
		{[]string{"report", "--ledger", "https://h", "--ledger-token-file", os.DevNull}, "it is empty"},
		{[]string{"report", "--ledger", "https://h", "--ledger-ca-file", os.DevNull}, "it has no certificate in PEM"},
		{[]string{"report", "segments", "--where", "pod=a"}, `--where is "pod=a": want DIMENSION=VALUE, of queue, namespace`},
		{[]string{"report", "segments", "--where", "user"}, `--where is "user": want DIMENSION=VALUE`},
		{[]string{"report", "segments", "-o", "yaml"}, `--output is "yaml": want one of json, csv`},
		{[]string{"report", "waste", "--window", "1s"}, "--window is 1s: want from 1m to 24h in whole seconds"},
		{[]string{"report", "waste", "--limit", "101"}, "--limit is 101: want a percentage, 0 to 100"},
		{[]string{"report", "waste", "--prometheus", "localhost"}, `--prometheus is "localhost": want the address of a Prometheus`},
		{[]string{"version", "-o", "wide"}, `--output is "wide": want one of json, yaml`},
	} {
		if _, err := run(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("weft %s: %v, want %q", strings.Join(tc.args, " "), err, tc.want)
		}
	}
}

func TestHelpIsShort(t *testing.T) {
	for _, args := range [][]string{
		{"--help"},
		{"top", "--help"},
		{"why", "--help"},
		{"queue", "--help"},
		{"report", "--help"},
		{"report", "segments", "--help"},
		{"report", "waste", "--help"},
		{"version", "--help"},
	} {
		out, err := run(t, args...)
		if err != nil {
			t.Errorf("weft %v: %v", args, err)
		}
		if strings.Contains(out, "--as-user-extra") || !strings.Contains(out, `"weft options" lists them`) {
			t.Errorf("weft %v: the flags of kubectl belong into weft options:\n%s", args, out)
		}
	}
	out, err := run(t, "options")
	if err != nil || !strings.Contains(out, "--as-user-extra") || !strings.Contains(out, "--scheduler-name") {
		t.Errorf("weft options: %v\n%s", err, out)
	}
	for _, command := range []string{"top", "why", "queue", "report", "report segments", "report waste"} {
		if out, _ := run(t, append(strings.Fields(command), "--help")...); !strings.Contains(out, "Examples:\n  # ") {
			t.Errorf("weft %s --help has no examples:\n%s", command, out)
		}
	}
}

func TestAsAPluginOfKubectl(t *testing.T) {
	streams, _, stdout, _ := genericiooptions.NewTestIOStreams()
	cmd := NewCommand("/usr/local/bin/kubectl-weft", streams)
	cmd.SetArgs([]string{"top", "--help"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stdout.String(), "kubectl weft top [flags]") {
		t.Errorf("it does not call itself what people type:\n%s", stdout)
	}
}

func TestCompletion(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"top", "-o", ""}, "wide\njson\nyaml\n"},
		{[]string{"top", "--detail", ""}, "auto\ngpu\nnode\nclass\n"},
		{[]string{"why", "--output", ""}, "json\nyaml\n"},
		{[]string{"report", "--output", ""}, "json\nyaml\ncsv\nfocus\n"},
		{[]string{"report", "--bucket", ""}, "hour\nday\nmonth\n"},
		{[]string{"queue", "p"}, ""},
		{[]string{"why", "p"}, ""}, // without a cluster nothing, and no error
	} {
		streams, _, stdout, _ := genericiooptions.NewTestIOStreams()
		cmd := NewCommand("weft", streams)
		cmd.SetArgs(append([]string{"__completeNoDesc", "--server=http://127.0.0.1:1"}, tc.args...))
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%v: %v", tc.args, err)
		}
		got, _, _ := strings.Cut(stdout.String(), ":")
		if got != tc.want {
			t.Errorf("%v completes to %q, want %q", tc.args, got, tc.want)
		}
	}
}

func TestVersion(t *testing.T) {
	info := &debug.BuildInfo{
		Main:     debug.Module{Version: "v1.2.3"},
		Deps:     []*debug.Module{{Path: "k8s.io/api", Version: "v0.1.0"}, {Path: "k8s.io/client-go", Version: "v0.37.0"}},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}},
	}
	got := versionOf(info)
	got.Go, got.Platform = "", ""
	if diff := cmp.Diff(Version{Version: "v1.2.3", Revision: "abc-dirty", Kubernetes: "v0.37.0"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := versionOf(nil).Version; got != "unknown" {
		t.Errorf("without build info: %q", got)
	}
	for _, format := range []string{"", "json", "yaml"} {
		if out, err := run(t, "version", "-o", format); err != nil || !strings.Contains(out, "linux") && !strings.Contains(out, "/") {
			t.Errorf("weft version -o %q: %v\n%s", format, err, out)
		}
	}
}

func TestVersionForPeople(t *testing.T) {
	v := Version{Version: "v1", Revision: "abc", Go: "go1", Platform: "linux/amd64", Kubernetes: "v0.37.0"}
	if got, want := v.String(), "weft v1\nrevision abc\ngo1, linux/amd64, Kubernetes libraries v0.37.0\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	v.Revision = ""
	if got, want := v.String(), "weft v1\ngo1, linux/amd64, Kubernetes libraries v0.37.0\n"; got != want {
		t.Errorf("without a revision: %q, want %q", got, want)
	}
	command, _ := run(t, "version")
	if flag, err := run(t, "--version"); err != nil || flag != command {
		t.Errorf("weft --version: %v, %q, want %q", err, flag, command)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"not reachable": {&url.Error{Op: "Get", URL: "https://x", Err: &net.OpError{Op: "dial", Err: errors.New("refused")}}, "check --kubeconfig, --context and --server"},
		"not logged in": {apierrors.NewUnauthorized("no"), "log in again"},
		"may not get":   {apierrors.NewForbidden(pods, "a", errors.New("no")), "kubectl create clusterrole weft-view"},
		"may not list":  {&ForbiddenError{Resource: "pods", err: apierrors.NewForbidden(pods, "", errors.New("no"))}, "kubectl create clusterrole weft-view"},
		"anything else": {errors.New("odd"), "odd"},
	} {
		if got := Advise(tc.err); !strings.Contains(got.Error(), tc.want) || !errors.Is(got, tc.err) && !apierrors.IsForbidden(tc.err) {
			t.Errorf("%s: %v, want %q", name, got, tc.want)
		}
	}
	if Advise(nil) != nil {
		t.Error("advice on no error")
	}
	if _, err := run(t, "top", "--server=http://127.0.0.1:1"); err == nil || !strings.Contains(Advise(err).Error(), "cannot be reached") {
		t.Errorf("top without a server: %v", err)
	}
}

func TestWithoutAKubeconfig(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("apiVersion: v1\nkind: Config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_MASTER", "")
	for _, tc := range []struct{ env, flag, want string }{
		{filepath.Join(dir, "none"), "", "no kubeconfig was found: KUBECONFIG=" + filepath.Join(dir, "none") + " does not exist"},
		{empty, "", "no kubeconfig was found: KUBECONFIG=" + empty + " names no cluster"},
		{filepath.Join(dir, "none"), empty, "no kubeconfig was found: " + empty + " names no cluster"},
	} {
		t.Setenv("KUBECONFIG", tc.env)
		for _, args := range [][]string{{"top"}, {"why", "a"}} {
			streams, _, _, _ := genericiooptions.NewTestIOStreams()
			cmd := NewCommand("weft", streams)
			cmd.SetArgs(append(args, "--kubeconfig", tc.flag))
			err := Advise(cmd.ExecuteContext(t.Context()))
			if want := tc.want + "\nexport KUBECONFIG, or give --kubeconfig"; err == nil || err.Error() != want {
				t.Errorf("weft %v: %v, want %s", args, err, want)
			}
		}
	}
}

func TestAProductThatNobodyHas(t *testing.T) {
	s := parseScenario(t, "node a gpus=1\nnode b gpus=2 product=Tesla-T4 memory=15360 from=labels")
	for _, tc := range []struct {
		objects  Objects
		products []string
		want     string
	}{
		{s.Objects, nil, ""},
		{s.Objects, []string{"Tesla-T4", "NVIDIA-H100-80GB-HBM3"}, ""},
		{s.Objects, []string{"Tesla-T4", "H100"}, `no node has GPUs of model "H100": there are NVIDIA-H100-80GB-HBM3, Tesla-T4`},
		{Objects{}, []string{"H100"}, `no node has GPUs of model "H100": there are none`},
	} {
		got := ""
		if err := (&topOptions{products: tc.products}).knownProducts(tc.objects); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("--product %v: %q, want %q", tc.products, got, tc.want)
		}
	}
}

func TestHowAPodIsNamed(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for _, tc := range []struct{ flag, arg, want string }{
		{"", "a", "default/a"},
		{"ml", "a", "ml/a"},
		{"ml", "pod/a", "ml/a"},
		{"", "pods/a", "default/a"},
		{"", "ml/a", "ml/a"},
		{"ml", "ml/a", "ml/a"},
		{"", "pod/ml/a", "ml/a"},
		{"job", "a", "job/a"},
	} {
		s := &shell{flags: genericclioptions.NewConfigFlags(true)}
		s.flags.Namespace = &tc.flag
		namespace, name, err := s.podNamed(tc.arg)
		if got := namespace + "/" + name; err != nil || got != tc.want {
			t.Errorf("-n %q %s: %s, %v, want %s", tc.flag, tc.arg, got, err, tc.want)
		}
	}
}

func TestHowAGangIsNamed(t *testing.T) {
	for arg, want := range map[string]string{
		"podgroup/a": "a", "PodGroups/a": "a", "pg/ml/a": "ml/a", "podgroups.scheduling.x-k8s.io/a": "a", "podgroup/": "",
	} {
		if name, ok := groupNamed(arg); !ok || name != want {
			t.Errorf("%s: %q, %t, want %q", arg, name, ok, want)
		}
	}
	for _, arg := range []string{"podgroup", "pod/a", "ml/podgroup", "a"} {
		if name, ok := groupNamed(arg); ok {
			t.Errorf("%s: taken for the gang %q", arg, name)
		}
	}
}

func TestWhatIsNoPod(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	none := apierrors.NewNotFound(pods, "a")
	for _, tc := range []struct {
		arg, namespace string
		err            error
		want           string
	}{
		{"a", "ml", none, `pod "a" not found in namespace "ml": is it in another namespace (-n)?`},
		{"ml/a", "ml", none, `pod "a" not found in namespace "ml": is it in another namespace (-n)?`},
		{"a", "jobs", none, `pod "a" not found in namespace "jobs": is it in another namespace (-n)?`},
		{"deploy/a", "deploy", none, "deploy/a is not a pod: want the name of one of its pods, see kubectl get pods"},
		{"deployments.apps/a", "deployments.apps", none, "deployments.apps/a is not a pod: want the name of one of its pods, see kubectl get pods"},
		{"job/a", "job", apierrors.NewForbidden(pods, "a", errors.New("no")), "job/a is not a pod: want the name of one of its pods, see kubectl get pods"},
		{"job/a", "job", errors.New("odd"), "reading pod job/a: odd"},
	} {
		if got := notGot(tc.arg, tc.namespace, "a", tc.err).Error(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.arg, got, tc.want)
		}
	}
}

func TestLocale(t *testing.T) {
	for _, tc := range []struct {
		all, ctype, lang string
		want             bool
	}{
		{"", "", "", false},
		{"", "", "C", true},
		{"", "", "en_US.UTF-8", false},
		{"", "", "C.utf8", false},
		{"", "de_DE.ISO-8859-1", "en_US.UTF-8", true},
		{"C.UTF-8", "de_DE.ISO-8859-1", "", false},
	} {
		t.Setenv("LC_ALL", tc.all)
		t.Setenv("LC_CTYPE", tc.ctype)
		t.Setenv("LANG", tc.lang)
		if got := ascii(); got != tc.want {
			t.Errorf("LC_ALL=%s LC_CTYPE=%s LANG=%s: ascii %t, want %t", tc.all, tc.ctype, tc.lang, got, tc.want)
		}
	}
}
