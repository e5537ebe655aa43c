package queues

import (
	"fmt"
	"math/big"
	"regexp"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Longer ones take seconds to parse, and do not pass the definitions.
var (
	shortQuantity = regexp.MustCompile(`^.{1,40}$`)
	longExponent  = regexp.MustCompile(`[eE][+-]?[0-9.]{3}`)
)

// FuzzScaled compares amounts with what fractions of any size say.
func FuzzScaled(f *testing.F) {
	for _, s := range []string{"0", "8", "500m", "1.5", "-10", "1u", "0.000277777", "9e18", "-9E", "1Gi", "1e-30", "12345678901234567890", "0.0005"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !shortQuantity.MatchString(s) || longExponent.MatchString(s) {
			return
		}
		q, err := resource.ParseQuantity(s)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(q.AsDec().String())
		if !ok {
			t.Fatalf("%q is no number", q.AsDec())
		}
		for _, factor := range []int64{1000, 1e6, milliGPUSecondsPerHour} {
			want := new(big.Rat).Mul(exact, new(big.Rat).SetInt64(factor))
			wantOK := want.IsInt() && want.Num().IsInt64() && want.Num().Int64() <= quota.NoLimit/4 && want.Num().Int64() >= -(quota.NoLimit/4)
			got, ok := scaled(q, factor)
			if ok != wantOK || ok && got != want.Num().Int64() {
				t.Errorf("%s x %d = %d, %v: want %v, %v", s, factor, got, ok, want, wantOK)
			}
		}
	})
}

// BenchmarkQueueOf is what each pod costs before it is queued.
func BenchmarkQueueOf(b *testing.B) {
	set, pod := benchSet(b)
	for b.Loop() {
		if _, v := set.QueueOf(pod); !v.OK() {
			b.Fatal(v)
		}
	}
}

func BenchmarkClaim(b *testing.B) {
	set, pod := benchSet(b)
	for b.Loop() {
		if _, ok := set.Claim(pod, nil); !ok {
			b.Fatal("no claim")
		}
	}
}

// benchSet has a thousand queues in three levels, a hundred classes and a thousand namespaces.
func benchSet(b *testing.B) (*Set, *v1.Pod) {
	var list []*v1alpha1.Queue
	add := func(name, parent string) *v1alpha1.Queue {
		q := &v1alpha1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}}
		q.Spec.Parent = parent
		q.Spec.Namespaces = &v1alpha1.NamespaceSelector{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": name}}}
		q.Spec.Budget = &v1alpha1.Budget{GPUHours: resource.MustParse("1000"), TimeZone: "Europe/Berlin"}
		list = append(list, q)
		return q
	}
	var namespaces []*v1.Namespace
	for i := range 1000 {
		name := fmt.Sprintf("q%d", i)
		parent := ""
		if i > 0 {
			parent = fmt.Sprintf("q%d", (i-1)/32)
		}
		add(name, parent).Spec.Default = true
		namespaces = append(namespaces, namespace(name, map[string]string{"team": name}))
	}
	var classes []*v1alpha1.GPUClass
	for i := range 100 {
		classes = append(classes, &v1alpha1.GPUClass{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)},
			Spec:       v1alpha1.GPUClassSpec{Products: []string{fmt.Sprintf("p%d", i)}, Weight: resource.MustParse("1")},
		})
	}
	start := time.Now()
	set := NewSet(list, classes, namespaces)
	b.Logf("a set of 1000 queues, all of them default, and 1000 namespaces: %v", time.Since(start))
	pod := podOf(container("main", podspec.ResourceGPU, "1"))
	pod.Namespace, pod.Annotations[podspec.AnnotationRuntime] = "q999", "6h"
	return set, pod
}
