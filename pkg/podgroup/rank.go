package podgroup

import (
	"cmp"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the controllers that make pods in groups write on them. These are theirs, so they are spelled here and not among the
// project's own names.
const (
	// Jobs with completionMode Indexed. The annotation is older than the label.
	keyCompletionIndex = "batch.kubernetes.io/job-completion-index"
	// StatefulSets.
	keyPodIndex = "apps.kubernetes.io/pod-index"
	// JobSets: which Job of the whole set, which of its replicated Job, and that one's name.
	keyJobGlobalIndex = "jobset.sigs.k8s.io/job-global-index"
	keyJobIndex       = "jobset.sigs.k8s.io/job-index"
	keyReplicatedJob  = "jobset.sigs.k8s.io/replicatedjob-name"
	// Kubeflow's jobs.
	keyReplicaIndex = "training.kubeflow.org/replica-index"
	keyReplicaType  = "training.kubeflow.org/replica-type"
	keyJobRole      = "training.kubeflow.org/job-role"
	// LeaderWorkerSets: which group, and which pod of it; the leader is 0.
	keyLWSName     = "leaderworkerset.sigs.k8s.io/name"
	keyGroupIndex  = "leaderworkerset.sigs.k8s.io/group-index"
	keyWorkerIndex = "leaderworkerset.sigs.k8s.io/worker-index"
)

// outer is the weight of the index of a Job, or of a group, against that of a pod in it. A pod's index is below it: the
// fields that they are made of are 32 bits wide.
const outer = 1 << 32

// Rank is the pod's place among the pods of its template, and -1 where nothing says it. Ranks are for order: they have gaps
// where pods are in groups (the Jobs of a JobSet, the groups of a LeaderWorkerSet).
func Rank(pod *v1.Pod) int {
	completion := max(index(pod, keyCompletionIndex), 0)
	for _, key := range [...]string{keyJobGlobalIndex, keyJobIndex} {
		if job := index(pod, key); job >= 0 {
			return job*outer + completion
		}
	}
	if worker := index(pod, keyWorkerIndex); worker >= 0 {
		return max(index(pod, keyGroupIndex), 0)*outer + worker
	}
	for _, key := range [...]string{keyReplicaIndex, keyCompletionIndex, keyPodIndex} {
		if i := index(pod, key); i >= 0 {
			return i
		}
	}
	return -1
}

// index is the number that the pod's label, or else its annotation, has, and -1 where it has none that could be an index.
func index(pod *v1.Pod, key string) int {
	v, ok := pod.Labels[key]
	if !ok {
		v = pod.Annotations[key]
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// Compare orders the members of a gang. Those of one template (the workers, the launcher) stand side by side: a template that
// leads by its name first, the others by name; within one by rank, those without a rank last; then by name, where numbers
// count as numbers; then by UID.
func Compare(a, b *v1.Pod) int { return compareOrders(orderOf(a), orderOf(b)) }

// order is what a pod is compared by.
type order struct {
	follows bool // after the templates that lead
	group   string
	rank    int
	name    string
	uid     string
}

func orderOf(pod *v1.Pod) order {
	group := groupOf(pod)
	rank := Rank(pod)
	if rank < 0 {
		rank = 1<<63 - 1
	}
	return order{!leads(group), group, rank, pod.Name, string(pod.UID)}
}

func compareOrders(a, b order) int {
	if a.follows != b.follows {
		if a.follows {
			return 1
		}
		return -1
	}
	return cmp.Or(natural(a.group, b.group), cmp.Compare(a.rank, b.rank), natural(a.name, b.name), strings.Compare(a.uid, b.uid))
}

// groupOf names the template that the pod is made from: the replicated Job of a JobSet, the replica type of a Kubeflow job,
// the LeaderWorkerSet, otherwise its owner. It is a name and not a UID, so that a Job that is made again takes its place.
func groupOf(pod *v1.Pod) string {
	for _, key := range [...]string{keyReplicatedJob, keyReplicaType, keyJobRole, keyLWSName} {
		if v := pod.Labels[key]; v != "" {
			return v
		}
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		return owner.Name
	}
	return ""
}

// leads reports whether the template's name says that its pods direct the others. They go first: where they have a rank of
// their own, as the master of a PyTorchJob, it is 0.
func leads(group string) bool {
	for word := range strings.SplitSeq(strings.ToLower(group), "-") {
		switch word {
		case "launcher", "master", "leader", "chief", "head", "driver", "coordinator":
			return true
		}
	}
	return false
}

// natural compares two names: runs of digits by their number, everything else byte by byte. Names that differ only in zeros
// before a number are told apart by their bytes.
func natural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		if digits(x) > 0 && digits(y) > 0 {
			n, m := x[:digits(x)], y[:digits(y)]
			x, y = x[len(n):], y[len(m):]
			n, m = strings.TrimLeft(n, "0"), strings.TrimLeft(m, "0")
			if c := cmp.Or(cmp.Compare(len(n), len(m)), strings.Compare(n, m)); c != 0 {
				return c
			}
			continue
		}
		if x[0] != y[0] {
			return cmp.Compare(x[0], y[0])
		}
		x, y = x[1:], y[1:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(a, b))
}

// digits is how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// OrderKeys are the keys of labels and annotations by which Compare puts the members of a gang in order, besides their names.
func OrderKeys() []string {
	return []string{
		keyCompletionIndex, keyPodIndex, keyJobGlobalIndex, keyJobIndex, keyReplicatedJob, keyReplicaIndex, keyReplicaType, keyJobRole,
		keyLWSName, keyGroupIndex, keyWorkerIndex,
	}
}
