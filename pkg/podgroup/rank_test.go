package podgroup

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// labelled is a pod with labels in pairs.
func labelled(name string, pairs ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{}}}
	for i := 0; i < len(pairs); i += 2 {
		p.Labels[pairs[i]] = pairs[i+1]
	}
	return p
}

func owned(p *v1.Pod, kind, name string) *v1.Pod {
	p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: new(true)}}
	return p
}

func TestRank(t *testing.T) {
	annotated := labelled("a")
	annotated.Annotations = map[string]string{keyCompletionIndex: "11"}
	both := labelled("a", keyCompletionIndex, "5")
	both.Annotations = map[string]string{keyCompletionIndex: "11"}
	for name, c := range map[string]struct {
		pod  *v1.Pod
		want int
	}{
		"nothing says it":                        {labelled("train-7"), -1},
		"a Job's index":                          {labelled("a", keyCompletionIndex, "5"), 5},
		"a Job's index of long ago":              {annotated, 11},
		"a Job's index, the label first":         {both, 5},
		"a StatefulSet's ordinal":                {labelled("a", keyPodIndex, "0"), 0},
		"a Kubeflow replica":                     {labelled("a", keyReplicaIndex, "3"), 3},
		"the second Job of a JobSet":             {labelled("a", keyJobIndex, "1", keyCompletionIndex, "2"), outer + 2},
		"the fourth Job of the whole JobSet":     {labelled("a", keyJobGlobalIndex, "3", keyJobIndex, "1", keyCompletionIndex, "2"), 3*outer + 2},
		"a Job of a JobSet that has no index":    {labelled("a", keyJobIndex, "1"), outer},
		"a worker of a LeaderWorkerSet":          {labelled("a", keyGroupIndex, "2", keyWorkerIndex, "3", keyPodIndex, "3"), 2*outer + 3},
		"a leader, whose ordinal is the group's": {labelled("a", keyGroupIndex, "2", keyWorkerIndex, "0", keyPodIndex, "2"), 2 * outer},
		"no number":                              {labelled("a", keyCompletionIndex, "x"), -1},
		"an empty value":                         {labelled("a", keyCompletionIndex, ""), -1},
		"less than 0":                            {labelled("a", keyCompletionIndex, "-1"), -1},
		"more than an index can be":              {labelled("a", keyCompletionIndex, "99999999999"), -1},
		"the largest index":                      {labelled("a", keyCompletionIndex, "2147483647"), 1<<31 - 1},
		"not the first that has no number":       {labelled("a", keyReplicaIndex, "x", keyPodIndex, "4"), 4},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Rank(c.pod); got != c.want {
				t.Errorf("%d: want %d", got, c.want)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	for name, want := range map[string][]*v1.Pod{
		"by index, not by name": {
			labelled("c", keyCompletionIndex, "0"), labelled("b", keyCompletionIndex, "1"), labelled("a", keyCompletionIndex, "10"),
		},
		"by name, numbers as numbers": {
			labelled("train-1"), labelled("train-2"), labelled("train-02-x"), labelled("train-10"), labelled("train-a"), labelled("trainer"),
		},
		"without an index after those with one": {
			labelled("b", keyCompletionIndex, "3"), labelled("a"),
		},
		"the launcher first, then the workers": {
			owned(labelled("mpi-launcher-x7f2k"), "Job", "mpi-launcher"),
			owned(labelled("mpi-worker-0", keyReplicaIndex, "0"), "MPIJob", "mpi"),
			owned(labelled("mpi-worker-1", keyReplicaIndex, "1"), "MPIJob", "mpi"),
		},
		"the master first, which is rank 0 too": {
			labelled("z", keyReplicaType, "master", keyReplicaIndex, "0"),
			labelled("a", keyReplicaType, "worker", keyReplicaIndex, "0"),
			labelled("b", keyReplicaType, "worker", keyReplicaIndex, "1"),
		},
		"the pods of one template side by side": {
			owned(labelled("p", keyCompletionIndex, "0"), "Job", "eval"),
			owned(labelled("q", keyCompletionIndex, "1"), "Job", "eval"),
			owned(labelled("o", keyCompletionIndex, "0"), "Job", "train"),
			owned(labelled("r", keyCompletionIndex, "1"), "Job", "train"),
		},
		"owners by number": {
			owned(labelled("b"), "Job", "stage-2"), owned(labelled("a"), "Job", "stage-10"),
		},
		"a JobSet: driver, then each Job after the other": {
			labelled("z", keyReplicatedJob, "driver", keyJobGlobalIndex, "2", keyCompletionIndex, "0"),
			labelled("w", keyReplicatedJob, "workers", keyJobGlobalIndex, "0", keyCompletionIndex, "0"),
			labelled("v", keyReplicatedJob, "workers", keyJobGlobalIndex, "0", keyCompletionIndex, "1"),
			labelled("u", keyReplicatedJob, "workers", keyJobGlobalIndex, "1", keyCompletionIndex, "0"),
		},
		"LeaderWorkerSets: each group together, its leader first": {
			owned(labelled("l-0", keyLWSName, "l", keyGroupIndex, "0", keyWorkerIndex, "0"), "StatefulSet", "l"),
			owned(labelled("l-0-1", keyLWSName, "l", keyGroupIndex, "0", keyWorkerIndex, "1"), "StatefulSet", "l-0"),
			owned(labelled("l-1", keyLWSName, "l", keyGroupIndex, "1", keyWorkerIndex, "0"), "StatefulSet", "l"),
			owned(labelled("l-1-1", keyLWSName, "l", keyGroupIndex, "1", keyWorkerIndex, "1"), "StatefulSet", "l-1"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := slices.Clone(want)
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
			slices.SortFunc(got, Compare)
			if diff := cmp.Diff(names(want), names(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestPodsOfOneNameAreToldApart(t *testing.T) {
	a, b := labelled("a"), labelled("a")
	a.UID, b.UID = "1", "2"
	if Compare(a, b) >= 0 || Compare(b, a) <= 0 || Compare(a, a) != 0 {
		t.Errorf("%d, %d, %d: want them by UID", Compare(a, b), Compare(b, a), Compare(a, a))
	}
}

// Whatever stands in names and labels, the order is one: sorting never depends on where a pod stood before.
func TestCompareIsAnOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	pieces := []string{"a", "b", "0", "1", "00", "01", "10", "-", ".", "launcher", "9", "a0", "99999999999999999999999"}
	word := func() string {
		var s strings.Builder
		for range r.IntN(4) {
			s.WriteString(pieces[r.IntN(len(pieces))])
		}
		return s.String()
	}
	keys := []string{keyCompletionIndex, keyReplicatedJob, keyJobIndex, keyReplicaIndex, keyReplicaType, keyWorkerIndex, keyGroupIndex}
	pods := make([]*v1.Pod, 60)
	for i := range pods {
		pods[i] = owned(labelled(word()), "Job", word())
		pods[i].UID = types.UID(strconv.Itoa(i))
		for range r.IntN(3) {
			pods[i].Labels[keys[r.IntN(len(keys))]] = word()
		}
	}
	sign := func(n int) int { return max(-1, min(1, n)) }
	for _, a := range pods {
		for _, b := range pods {
			ab := sign(Compare(a, b))
			if ab != -sign(Compare(b, a)) || (ab == 0) != (a == b) {
				t.Fatalf("%s against %s is %d, and the other way round %d", a.Name, b.Name, ab, Compare(b, a))
			}
			for _, c := range pods {
				if ab < 0 && Compare(b, c) < 0 && Compare(a, c) >= 0 {
					t.Fatalf("%q < %q < %q, and not the first < the last", a.Name, b.Name, c.Name)
				}
			}
		}
	}
}

func names(pods []*v1.Pod) []string {
	out := make([]string, len(pods))
	for i, p := range pods {
		out[i] = p.Name
	}
	return out
}
