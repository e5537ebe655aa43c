package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
)

// stored is the status that the PodGroup has, without what a definition of somebody else's may drop.
func stored(pg *schedv1alpha1.PodGroup) gang.Status {
	s := pg.Status
	return gang.Status{
		Phase: gang.Phase(s.Phase), Running: int(s.Running), Succeeded: int(s.Succeeded), Failed: int(s.Failed),
		Since: s.ScheduleStartTime.Time,
	}
}

// messageLength is how long a message may be, by the definition of PodGroup in manifests/crds.
const messageLength = 4096

// kept is the part of a status that is always stored.
func kept(s gang.Status) gang.Status {
	s.Scheduled, s.Message, s.Since = 0, "", s.Since.Truncate(time.Second).UTC()
	return s
}

// patch is the status for a merge patch. The UID makes the API server refuse it for another object of the same name.
func patch(uid types.UID, s gang.Status) ([]byte, error) {
	// All fields stand in it, also the zero ones: they replace what was there.
	type status struct {
		Phase     gang.Phase   `json:"phase"`
		Scheduled int          `json:"scheduled"`
		Running   int          `json:"running"`
		Succeeded int          `json:"succeeded"`
		Failed    int          `json:"failed"`
		Since     *metav1.Time `json:"scheduleStartTime"` // null takes it away
		Message   string       `json:"message"`
	}
	out := status{s.Phase, s.Scheduled, s.Running, s.Succeeded, s.Failed, nil, clip(s.Message, messageLength)}
	if !s.Since.IsZero() {
		out.Since = &metav1.Time{Time: s.Since}
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": out})
}

// write stores the status of the PodGroup if it differs from what is known to be stored.
func (c *Controller) write(ctx context.Context, k gang.Key, g *known, pg group, now time.Time) error {
	if g.written && g.last == g.status && kept(pg.stored) == kept(g.status) {
		return nil
	}
	options := metav1.PatchOptions{FieldManager: name}
	var body []byte
	var err error
	if k.Source == gang.SourceNative {
		if body, err = patchNative(pg.uid, conditionOf(g.status, pg.condition, now)); err == nil {
			_, err = c.client.SchedulingV1beta1().PodGroups(k.Namespace).
				Patch(ctx, k.Name, types.StrategicMergePatchType, body, options, "status")
		}
	} else if body, err = patch(pg.uid, g.status); err == nil {
		_, err = c.groups.Resource(podgroup.Resource).Namespace(k.Namespace).
			Patch(ctx, k.Name, types.MergePatchType, body, options, "status")
	}
	if err != nil {
		return fmt.Errorf("status of %s: %w", k, err)
	}
	g.written, g.last = true, g.status
	return nil
}
