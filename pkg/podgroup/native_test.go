package podgroup

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	discoveryfake "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestNativeServed(t *testing.T) {
	list := func(groupVersion string, names ...string) *metav1.APIResourceList {
		l := &metav1.APIResourceList{GroupVersion: groupVersion}
		for _, name := range names {
			l.APIResources = append(l.APIResources, metav1.APIResource{Name: name})
		}
		return l
	}
	for name, c := range map[string]struct {
		serves []*metav1.APIResourceList
		want   bool
	}{
		"the version that is read":         {[]*metav1.APIResourceList{list("scheduling.k8s.io/v1beta1", "podgroups/status", "podgroups")}, true},
		"a version of before":              {[]*metav1.APIResourceList{list("scheduling.k8s.io/v1alpha2", "podgroups")}, false},
		"the version without the resource": {[]*metav1.APIResourceList{list("scheduling.k8s.io/v1beta1", "workloads")}, false},
		"the other kind":                   {[]*metav1.APIResourceList{list("scheduling.x-k8s.io/v1alpha1", "podgroups")}, false},
		"nothing":                          {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := &discoveryfake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: c.serves}}
			if got, err := NativeServed(t.Context(), d); got != c.want || err != nil {
				t.Errorf("%v, %v: want %v", got, err, c.want)
			}
		})
	}
}

// TestNativeServedAsksAgain: an API server that does not answer has not said no.
func TestNativeServedAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &discoveryfake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{
			{GroupVersion: "scheduling.k8s.io/v1beta1", APIResources: []metav1.APIResource{{Name: "podgroups"}}},
		}}}
		failures := 3
		d.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			if failures == 0 {
				return false, nil, nil
			}
			failures--
			return true, nil, errors.New("connection refused")
		})
		start := time.Now()
		if got, err := NativeServed(t.Context(), d); !got || err != nil || time.Since(start) != 3*probeInterval {
			t.Errorf("%v, %v after %v: want true after 3 failures", got, err, time.Since(start))
		}
		failures = -1
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if got, err := NativeServed(ctx, d); got || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %v: want the context's end", got, err)
		}
	})
}
