package podspec

import (
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"weft.sh/weft/pkg/gang"
)

// WantTopologyKey is what [ValidTopologyKey] accepts, in words.
const WantTopologyKey = `"` + gang.LevelNVLink + `" or a node label key such as topology.kubernetes.io/rack`

// ValidTopologyKey reports whether the key can name a topology level: "nvlink" or the key of a label. Which levels there are
// is the scheduler's configuration.
func ValidTopologyKey(key string) bool { return len(validation.IsQualifiedName(key)) == 0 }

// Runtime is how long the pod is expected to run: its annotation weft.sh/runtime, and where it has none its
// activeDeadlineSeconds, after which the kubelet ends it. ok is false where neither is given. Errors are *InvalidError.
func Runtime(pod *v1.Pod) (d time.Duration, ok bool, err error) {
	if v, ok := pod.Annotations[AnnotationRuntime]; ok {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return 0, false, &InvalidError{"annotation " + AnnotationRuntime, clip(v), "a duration of more than 0, such as 90m or 6h"}
		}
		return d, true, nil
	}
	if s := pod.Spec.ActiveDeadlineSeconds; s != nil {
		// The API server accepts up to 2^31-1 seconds, 68 years, which a Duration holds.
		return time.Duration(*s) * time.Second, true, nil
	}
	return 0, false, nil
}

// CheckpointedAt is when the pod's work was last saved, by its annotation weft.sh/checkpointed-at. ok is false where it has
// none. Errors are *InvalidError. The time is the writer's: it may lie in the future.
func CheckpointedAt(pod *v1.Pod) (t time.Time, ok bool, err error) {
	v, ok := pod.Annotations[AnnotationCheckpointedAt]
	if !ok {
		return time.Time{}, false, nil
	}
	t, err = time.Parse(time.RFC3339, v)
	if err != nil {
		return time.Time{}, false, &InvalidError{"annotation " + AnnotationCheckpointedAt, clip(v), "a time in RFC 3339, such as 2026-11-21T16:07:04Z"}
	}
	return t, true, nil
}
