package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/quota"
)

const (
	// recordName is the ConfigMap with what this process knows of use that the ledger does not have yet, in recordKey; the key says in
	// which form. It is in the namespace that this runs in.
	recordName = "weft-scheduler-claims"
	recordKey  = "v1"
	// defaultNamespace is where this is installed; namespaceFile says where it runs.
	defaultNamespace = "weft-system"
	namespaceFile    = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	// recordEvery is how often it is written where something changes.
	recordEvery = 2 * time.Second
)

// recorder writes the record of the book.
type recorder struct {
	// due says that claims changed since the record was written. State.mu guards it.
	due bool
	// known says that there was a record at the start.
	known bool
	// object is the ConfigMap as it was last read or written, nil while that is not known; failing says that it could not be written.
	object  *v1.ConfigMap
	failing bool
}

// recordNamespace is the namespace of the record.
func recordNamespace() string {
	if text, err := os.ReadFile(namespaceFile); err == nil {
		if name := strings.TrimSpace(string(text)); name != "" {
			return name
		}
	}
	return defaultNamespace
}

// restore adds to the book what the process before knew and nobody else does: see "After a restart" in the package's documentation. A
// record that cannot be had for ever is told, and done without.
func (s *State) restore(ctx context.Context) error {
	namespace := recordNamespace()
	object, err := s.client.CoreV1().ConfigMaps(namespace).Get(ctx, recordName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsForbidden(err):
		logger().Error(err, "What pods used that are deleted is not known: the ConfigMap of it may not be read", "name", namespace+"/"+recordName)
		return nil
	case err != nil:
		return fmt.Errorf("ConfigMap %s/%s: %w", namespace, recordName, err)
	}
	text, ok := object.Data[recordKey]
	if !ok {
		return nil // it is as it was installed
	}
	var r quota.Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		logger().Error(err, "What pods used that are deleted is not known: the ConfigMap of it cannot be read", "name", namespace+"/"+recordName)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book.Restore(r)
	s.records.known = true
	s.changed()
	return nil
}

// record writes the record every few seconds while something changes, and once more when the context ends.
func (s *State) record(ctx context.Context) {
	for pause(ctx, recordEvery) {
		s.writeRecord(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordEvery)
	defer cancel()
	s.writeRecord(ctx)
}

// writeRecord writes the record if it is due, and this process is the one that schedules. One that was overtaken by another finds the
// ConfigMap changed, writes nothing, and is gone before it tries again.
func (s *State) writeRecord(ctx context.Context) {
	if !s.active.Load() || !s.leading.Load() {
		return
	}
	s.mu.Lock()
	if !s.records.due {
		s.mu.Unlock()
		return
	}
	s.records.due = false
	r := s.book.Record(func(id string) bool { // what is promised is no use
		_, runs := s.running[types.UID(id)]
		return runs || s.holds[types.UID(id)] != nil
	})
	s.mu.Unlock()
	r.Round()
	err := s.putRecord(ctx, &r)
	switch {
	case err == nil:
		s.records.failing = false
		return
	case !s.records.failing:
		s.records.failing = true
		logger().Error(err, "What pods used that the ledger does not have yet cannot be written down; trying again: "+
			"if the scheduler and the controller start anew before that, what pods used is forgotten that are deleted by then")
	}
	s.records.object = nil
	s.mu.Lock()
	s.records.due = true
	s.mu.Unlock()
}

func (s *State) putRecord(ctx context.Context, r *quota.Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	maps := s.client.CoreV1().ConfigMaps(recordNamespace())
	if s.records.object == nil {
		s.records.object, err = maps.Get(ctx, recordName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			s.records.object, err = maps.Create(ctx, &v1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: recordName}, Data: map[string]string{recordKey: string(text)},
			}, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
	}
	object := s.records.object.DeepCopy()
	object.Data = map[string]string{recordKey: string(text)}
	object, err = maps.Update(ctx, object, metav1.UpdateOptions{})
	if err == nil {
		s.records.object = object
	}
	return err
}
