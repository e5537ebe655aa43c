package metering

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
)

// Reasons why a process's use of a GPU cannot be attributed to a container that holds something of the GPU.
const (
	// reasonGone: the process ended before it could be looked at.
	reasonGone = "gone"
	// reasonHost: the process runs in no pod's container.
	reasonHost = "host"
	// reasonUnknown: nobody knows the pod or the container; it may just have been started.
	reasonUnknown = "unknown"
	// reasonUnassigned: the container is known and holds nothing of the GPU.
	reasonUnassigned = "unassigned"
)

var reasons = []string{reasonGone, reasonHost, reasonUnknown, reasonUnassigned}

// user is a container, by its pod's UID and its name.
type user struct{ uid, container string }

// used sums processes.
type used struct {
	processes int64
	// memoryMiB and smPercent are nil when NVML tells it of none of the processes.
	memoryMiB, smPercent *int64
}

func (u *used) add(p nvml.ProcessUtilisation) {
	u.processes++
	for _, v := range []struct {
		to   **int64
		from *int64
	}{{&u.memoryMiB, p.UsedMiB}, {&u.smPercent, p.SMPercent}} {
		if v.from == nil {
			continue
		}
		if *v.to == nil {
			*v.to = new(int64)
		}
		**v.to += *v.from
	}
}

// sample is what NVML measured of one GPU at one moment.
type sample struct {
	at time.Time
	nvml.Utilisation
	// instances are the memory in use of MIG instances.
	instances map[gpu.Instance]int64
	// users are the processes by container, whether it holds something of the GPU or not.
	users map[user]used
	// others are the processes of no container that is known, by reason.
	others map[string]used
}

// attribute sorts the processes of a GPU by who runs them. where says in which container a process runs, or the reason why that is
// not known.
func attribute(g nvml.GPU, u nvml.Utilisation, at time.Time, where func(pid int) (user, string)) sample {
	s := sample{at: at, Utilisation: u, instances: map[gpu.Instance]int64{}, users: map[user]used{}, others: map[string]used{}}
	for _, i := range u.Instances {
		for _, d := range g.MIGDevices {
			if d.UUID == i.UUID && i.UsedMiB != nil {
				s.instances[d.Instance] = *i.UsedMiB
			}
		}
	}
	for _, p := range u.Processes {
		who, reason := where(p.PID)
		if reason != "" {
			sum := s.others[reason]
			sum.add(p)
			s.others[reason] = sum
			continue
		}
		sum := s.users[who]
		sum.add(p)
		s.users[who] = sum
	}
	return s
}

// use is what a hold used of what it holds; nil where that is not known.
type use struct{ memoryMiB, smPercent *int64 }

func (s *sample) useOf(h hold) use {
	if s == nil {
		return use{}
	}
	switch h.kind {
	case gpu.Whole:
		return use{s.UsedMiB, s.SMPercent}
	case gpu.MIG:
		if memoryMiB, ok := s.instances[h.instance]; ok {
			return use{memoryMiB: &memoryMiB}
		}
		return use{}
	}
	sum := s.users[user{h.uid, h.container}]
	out := use{sum.memoryMiB, sum.smPercent}
	if out.memoryMiB == nil && sum.processes == 0 {
		out.memoryMiB = new(int64)
	}
	// The driver tells of a process only when it ran something, and has a clock for that only when it can tell at all.
	if out.smPercent == nil && s.Until > 0 {
		out.smPercent = new(int64)
	}
	return out
}

// unattributed are the processes that run in no container that holds something of the GPU, by reason; every reason is there.
func (s *sample) unattributed(holds func(user) bool) map[string]used {
	out := map[string]used{}
	for _, r := range reasons {
		out[r] = s.others[r]
	}
	for who, u := range s.users {
		if holds(who) {
			continue
		}
		sum := out[reasonUnassigned]
		sum.processes += u.processes
		if u.memoryMiB != nil {
			total := *u.memoryMiB
			if sum.memoryMiB != nil {
				total += *sum.memoryMiB
			}
			sum.memoryMiB = &total
		}
		out[reasonUnassigned] = sum
	}
	return out
}

// whereIs says in which container a process runs, by its file below the folder of processes. names are the names of a pod's
// containers by ID, nil when there is no such pod.
func whereIs(procRoot string, pid int, names func(uid string) map[string]string) (user, string) {
	text, err := readCgroup(procRoot, pid)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH):
		return user{}, reasonGone
	case err != nil:
		return user{}, reasonUnknown
	}
	o, ok := parseCgroup(text)
	if !ok {
		return user{}, reasonHost
	}
	name, ok := names(o.uid)[o.container]
	if !ok {
		return user{}, reasonUnknown
	}
	return user{o.uid, name}, ""
}

// maxCgroupBytes is more than the kernel lets any path have in every hierarchy.
const maxCgroupBytes = 64 << 10

func readCgroup(procRoot string, pid int) (string, error) {
	f, err := os.Open(filepath.Join(procRoot, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCgroupBytes))
	return string(text), err
}

// RunningPods is the UIDs of the pods that have processes, by the control groups under procRoot; /proc when that is empty.
func RunningPods(procRoot string) map[string]bool {
	procRoot = cmp.Or(procRoot, "/proc")
	pods := map[string]bool{}
	entries, err := os.ReadDir(procRoot)
	if err != nil {
		return pods
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := readCgroup(procRoot, pid)
		if err != nil {
			continue // it has ended
		}
		if o, ok := parseCgroup(text); ok {
			pods[o.uid] = true
		}
	}
	return pods
}
