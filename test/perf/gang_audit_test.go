package perf

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"weft.sh/weft/pkg/playground"
)

// auditPolicy has the API server note every write to a pod.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    namespaces: [default]
    verbs: [create, update, patch]
    resources: [{group: "", resources: [pods, pods/binding, pods/status]}]
  - level: None
`

// auditLog is what the API server notes of writes to pods, with the time by its clock. Every competitor is timed by it: a watch
// would add what it lags behind.
type auditLog struct {
	b            *testing.B
	policy, file string
}

func newAuditLog(b *testing.B) *auditLog {
	b.Helper()
	dir := b.TempDir()
	l := &auditLog{b: b, policy: filepath.Join(dir, "policy.yaml"), file: filepath.Join(dir, "audit.log")}
	if err := os.WriteFile(l.policy, []byte(auditPolicy), 0o600); err != nil {
		b.Fatal(err)
	}
	return l
}

func (l *auditLog) flags() []string {
	return []string{"--audit-policy-file=" + l.policy, "--audit-log-path=" + l.file, "--audit-log-maxsize=10000"}
}

// audited is what was written of the members of a gang, by their names.
type audited struct {
	// created and bound are when these requests were done, and told is when the scheduler wrote the status for the first time.
	created, bound, told map[string]time.Time
	// written are all requests but those that created a pod, by user.
	written map[string][]time.Time
}

// read waits until what was written is complete: a request is noted after it was answered.
func (l *auditLog) read(ctx context.Context, group string, complete func(audited) bool) (a audited) {
	l.b.Helper()
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		var err error
		a, err = l.parse(group)
		return complete(a), err
	})
	if err != nil {
		l.b.Fatalf("%s: %v: the audit log has %d members created, %d bound and %d refused",
			group, err, len(a.created), len(a.bound), len(a.told))
	}
	return a
}

func (l *auditLog) parse(group string) (audited, error) {
	a := audited{
		created: map[string]time.Time{}, bound: map[string]time.Time{}, told: map[string]time.Time{}, written: map[string][]time.Time{},
	}
	data, err := os.ReadFile(l.file)
	if err != nil {
		return a, err
	}
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var e struct {
			User           struct{ Username string }
			ObjectRef      struct{ Name, Subresource string }
			ResponseStatus struct{ Code int }
			StageTimestamp metav1.MicroTime
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return a, err
		}
		pod, at := e.ObjectRef.Name, e.StageTimestamp.Time
		number, member := strings.CutPrefix(pod, group+"-")
		if !member || strings.Contains(number, "-") || e.ResponseStatus.Code >= 300 {
			continue
		}
		switch {
		case e.ObjectRef.Subresource == "":
			a.created[pod] = at
			continue
		case e.ObjectRef.Subresource == "binding":
			a.bound[pod] = at
		case e.User.Username == playground.SchedulerUser && a.told[pod].IsZero():
			a.told[pod] = at
		}
		a.written[e.User.Username] = append(a.written[e.User.Username], at)
	}
	return a, nil
}
