package trace

import (
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
)

// Job is a row of a Philly job list.
type Job struct {
	Submitted time.Time
	Duration  time.Duration
	GPUs      int
	// Cluster is the virtual cluster that the job belongs to.
	Cluster string
	Line    int
}

// maxJobGPUs bounds the GPUs of a job.
const maxJobGPUs = 1 << 20

// Philly reads a job list in the form of the Philly trace (Jeon et al., USENIX ATC 2019): columns timestamp (such as
// 2017-09-04 10:30:41, taken for UTC), duration in seconds, num_gpus, cluster, and with or without gpu_time, which is the
// product of two of them and not read. file stands in errors.
func Philly(r io.Reader, file string) iter.Seq2[Job, error] {
	return rows(r, file, []string{"timestamp", "duration", "num_gpus", "cluster"}, []string{"gpu_time"}, func(t *table) Job {
		j := Job{GPUs: int(t.number("num_gpus", 0, maxJobGPUs)), Cluster: strings.Clone(t.text("cluster")), Line: t.line()}
		var err error
		if j.Submitted, err = time.Parse(time.DateTime, t.text("timestamp")); err != nil {
			t.fail("timestamp", "is %q: want a time like %q", clip(t.text("timestamp")), time.DateTime)
		}
		seconds, err := strconv.ParseFloat(t.text("duration"), 64)
		if err != nil || !(seconds >= 0 && seconds <= maxSeconds) { // so that NaN is refused too
			t.fail("duration", "is %q: want seconds from 0 to %d", clip(t.text("duration")), int64(maxSeconds))
			return j
		}
		j.Duration = time.Duration(seconds * float64(time.Second))
		if j.Cluster == "" {
			t.fail("cluster", "is empty: want the name of a virtual cluster")
		}
		return j
	})
}
