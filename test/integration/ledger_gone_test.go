package integration

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/ledger/ledgertest"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// TestBooksInPostgreSQL: with the ledger in PostgreSQL the command line reads what is on the books through the controller; a gang that runs
// for longer than it said leaves whole when all of it may; and what a pod used is not forgotten that is deleted while the controller
// is away and before the scheduler is killed too.
func TestBooksInPostgreSQL(t *testing.T) {
	dsn := ledgertest.Postgres(t).Database()
	c := startCluster(t, "h100=1")
	h := c.history()
	ctl := startController(t, c.cp, "--ledger="+dsn, "--ledger-tick=1s")
	store := openLedger(t, dsn)
	c.startScheduler()

	t.Run("the command line reads them through the controller", func(t *testing.T) {
		c.queue("batch", "budget: {gpuHours: 100, period: None}")
		c.create(charged("short", "batch", "2h"))
		c.runs("short")
		ran := time.Now().Unix() + 2
		advances(t, store, ran)
		c.finish("short")
		advances(t, store, time.Now().Unix()+1)
		want := h.of("short").milliGPU * (h.of("short").finished - h.of("short").bound)

		line := &commandLine{t: t, cp: c.cp, client: c.client}
		line.kubeconfig = line.as(playground.AdminUser)
		ledger := ctl.ledgerFlags(t)
		var usage cli.Usage
		decode(t, line.run(append([]string{"report", "--from", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), "-o", "json"}, ledger...)...), &usage)
		if len(usage.Lines) != 1 || usage.Lines[0].Key[0] != "batch" || usage.Lines[0].ChargedMilliGPUSeconds != want {
			t.Errorf("weft report says %+v, want %d milli-GPU-seconds of batch", usage.Lines, want)
		}
		c.queue("batch", "budget: {gpuHours: 99, period: None}") // a status of which only the hours changed is written once a minute
		eventually(t, 2*time.Minute, func() string {
			var queues cli.Queues
			decode(t, line.run("queue", "-o", "json"), &queues)
			if len(queues.Queues) != 1 || queues.Queues[0].Budget == nil || queues.Queues[0].Budget.UsedMilliGPUSeconds != want {
				return fmt.Sprintf("weft queue says %+v, want %d milli-GPU-seconds used", queues.Queues, want)
			}
			return ""
		})
		c.delete("short")
	})

	t.Run("a gang that runs for longer than it said leaves whole", func(t *testing.T) {
		budgets := c.client.PolicyV1().PodDisruptionBudgets(metav1.NamespaceDefault)
		_, err := budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: "keep"},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{podspec.LabelPodGroup: "train"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		allow := func(n int) { // nobody runs Kubernetes' own controllers here
			t.Helper()
			patch := fmt.Sprintf(`{"status":{"observedGeneration":1,"disruptionsAllowed":%d,"currentHealthy":2,"desiredHealthy":%d,"expectedPods":2}}`, n, 2-n)
			if _, err := budgets.Patch(t.Context(), "keep", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
		}
		allow(1)
		c.queue("drains", "budget: {gpuHours: 100, period: None, enforcement: Drain, drainGraceSeconds: 2}")
		c.group("train", 2, nil)
		for i := range 2 {
			c.create(charged(fmt.Sprint("train-", i), "drains", "3s", memberOf("train")))
		}
		c.started("train", 2, time.Minute)
		c.runs("train-0")
		c.runs("train-1")
		c.wantEvent("Pod", "train-1", "BudgetDrain", "it runs for longer than the 3s that queue drains admits it for")
		c.wantEvent("Pod", "train-0", "BudgetDrainBlocked", "keep lets 1 pods go at the moment, and 2 have to leave together")
		for i := range 2 {
			if p := c.pod(fmt.Sprint("train-", i)); p.DeletionTimestamp != nil {
				t.Errorf("%s leaves without the other", p.Name)
			}
		}
		allow(2)
		eventually(t, time.Minute, func() string {
			if h.of("train-0").gone == 0 || h.of("train-1").gone == 0 {
				return "the gang is there"
			}
			return ""
		})
	})

	t.Run("what was deleted while nobody kept the books counts in the next scheduler", func(t *testing.T) {
		const limit = 360 // GPU-seconds
		c.queue("hours", "budget: {gpuHours: 100m, period: None}")
		four := func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{podspec.ResourceGPU: *quantity(4)}
		}
		c.create(charged("gone", "hours", "60s", four))
		c.runs("gone")
		eventually(t, time.Minute, func() string {
			if s := c.queueStatus("hours"); s.Budget == nil || s.Budget.AsOf.Unix() < h.of("gone").bound {
				return "there is no checkpoint yet"
			}
			return ""
		})
		ctl.end(syscall.SIGKILL)
		books := c.queueStatus("hours").Budget
		eventually(t, time.Minute, func() string {
			if ran := time.Now().Unix() - books.AsOf.Unix(); ran < 6 {
				return fmt.Sprintf("it ran for %d s since the checkpoint", ran)
			}
			return ""
		})
		uid := string(c.pod("gone").UID)
		c.finish("gone")
		c.delete("gone")
		eventually(t, time.Minute, func() string {
			o, err := c.client.CoreV1().ConfigMaps("weft-system").Get(t.Context(), "weft-scheduler-claims", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var r struct{ Ended []struct{ ID string } }
			if err := json.Unmarshal([]byte(o.Data["v1"]), &r); err == nil {
				for _, e := range r.Ended {
					if e.ID == uid {
						return ""
					}
				}
			}
			return fmt.Sprintf("%s is not among %s", uid, o.Data["v1"])
		})
		c.scheduler.Kill()
		c.startScheduler()
		// By the checkpoint alone it would fit to the second.
		fits := (limit - books.UsedMilliGPUSeconds/1000) / 4
		c.create(charged("late", "hours", fmt.Sprint(fits, "s"), four))
		c.heldBack("late", "OverBudget")
		c.create(charged("fits", "hours", "10s"))
		c.runs("fits")
	})
}

// ledgerFlags are the flags by which weft reads the ledger of this controller.
func (c *controller) ledgerFlags(t *testing.T) []string {
	t.Helper()
	conn, err := tls.Dial("tcp", c.address, &tls.Config{InsecureSkipVerify: true}) // it is made at start: this is how it is learned
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var authorities strings.Builder
	for _, cert := range conn.ConnectionState().PeerCertificates {
		if err := pem.Encode(&authorities, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	for file, text := range map[string]string{ca: authorities.String(), token: c.token} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--ledger", "https://" + c.address, "--ledger-ca-file", ca, "--ledger-token-file", token}
}
