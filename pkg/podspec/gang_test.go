package podspec

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRuntime(t *testing.T) {
	const want = "want a duration of more than 0, such as 90m or 6h"
	for name, c := range map[string]struct {
		annotations map[string]string
		deadline    *int64
		want        time.Duration
		ok          bool
		err         string
	}{
		"nothing is known":               {},
		"an annotation":                  {annotations: map[string]string{AnnotationRuntime: "6h"}, want: 6 * time.Hour, ok: true},
		"a deadline":                     {deadline: new(int64(90)), want: 90 * time.Second, ok: true},
		"the longest deadline":           {deadline: new(int64(1<<31 - 1)), want: (1<<31 - 1) * time.Second, ok: true},
		"both: the annotation":           {annotations: map[string]string{AnnotationRuntime: "1h30m"}, deadline: new(int64(90)), want: 90 * time.Minute, ok: true},
		"an annotation without a unit":   {annotations: map[string]string{AnnotationRuntime: "90"}, err: `annotation weft.sh/runtime is "90": ` + want},
		"an empty one":                   {annotations: map[string]string{AnnotationRuntime: ""}, err: `annotation weft.sh/runtime is "": ` + want},
		"no time":                        {annotations: map[string]string{AnnotationRuntime: "0s"}, err: `annotation weft.sh/runtime is "0s": ` + want},
		"less than no time":              {annotations: map[string]string{AnnotationRuntime: "-1h"}, err: `annotation weft.sh/runtime is "-1h": ` + want},
		"more than there is":             {annotations: map[string]string{AnnotationRuntime: "9999999h"}, err: `annotation weft.sh/runtime is "9999999h": ` + want},
		"a bad one beside a deadline":    {annotations: map[string]string{AnnotationRuntime: "2d"}, deadline: new(int64(90)), err: `annotation weft.sh/runtime is "2d": ` + want},
		"an annotation of somebody else": {annotations: map[string]string{"example.com/runtime": "6h"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}, Spec: v1.PodSpec{ActiveDeadlineSeconds: c.deadline}}
			got, ok, err := Runtime(pod)
			if got != c.want || ok != c.ok || text(err) != c.err {
				t.Errorf("%v, %t, %v: want %v, %t, %s", got, ok, err, c.want, c.ok, c.err)
			}
		})
	}
}

func TestCheckpointedAt(t *testing.T) {
	const want = "want a time in RFC 3339, such as 2026-11-21T16:07:04Z"
	at := time.Date(2026, 11, 21, 16, 7, 4, 0, time.UTC)
	for name, c := range map[string]struct {
		annotations map[string]string
		want        time.Time
		ok          bool
		err         string
	}{
		"never":          {},
		"a time":         {annotations: map[string]string{AnnotationCheckpointedAt: "2026-11-21T16:07:04Z"}, want: at, ok: true},
		"another zone":   {annotations: map[string]string{AnnotationCheckpointedAt: "2026-11-21T17:07:04+01:00"}, want: at, ok: true},
		"with fractions": {annotations: map[string]string{AnnotationCheckpointedAt: "2026-11-21T16:07:04.5Z"}, want: at.Add(time.Second / 2), ok: true},
		"a day":          {annotations: map[string]string{AnnotationCheckpointedAt: "2026-11-21"}, err: `annotation weft.sh/checkpointed-at is "2026-11-21": ` + want},
		"seconds":        {annotations: map[string]string{AnnotationCheckpointedAt: "1763741224"}, err: `annotation weft.sh/checkpointed-at is "1763741224": ` + want},
		"empty":          {annotations: map[string]string{AnnotationCheckpointedAt: ""}, err: `annotation weft.sh/checkpointed-at is "": ` + want},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok, err := CheckpointedAt(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}})
			if !got.Equal(c.want) || ok != c.ok || text(err) != c.err {
				t.Errorf("%v, %t, %v: want %v, %t, %s", got, ok, err, c.want, c.ok, c.err)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestValidTopologyKey(t *testing.T) {
	for key, want := range map[string]bool{
		"nvlink": true, "topology.kubernetes.io/rack": true, LabelClique: true, "rack": true, "A_b.c-9": true,
		"": false, "a b": false, "/rack": false, "rack/": false, "a/b/c": false, "-rack": false, "Prefix.example/rack": false,
	} {
		if got := ValidTopologyKey(key); got != want {
			t.Errorf("%q: %t", key, got)
		}
	}
}
