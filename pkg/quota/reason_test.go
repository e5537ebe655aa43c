package quota

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReasonNames: they are in dashboards and scripts of users.
func TestReasonNames(t *testing.T) {
	want := []string{
		"Admitted", "QueueNotFound", "QueueInvalid", "QueueForbidden", "RuntimeTooLong", "NeverWithinLimit", "NeverWithinBudget", "OverLimit",
		"OverBudget", "BudgetExhausted", "NotYourTurn", "Reason(11)",
	}
	var got []string
	for r := Admitted; r <= NotYourTurn+1; r++ {
		got = append(got, r.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMessages(t *testing.T) {
	const end = 1796083200
	for want, v := range map[string]Verdict{
		"the job may start":      {},
		"queue a does not exist": {Reason: QueueNotFound, Queue: "a"},
		"queue a is not valid":   {Reason: QueueInvalid, Queue: "a"},
		"queue a: weight is 0":   {Reason: QueueInvalid, Queue: "a", Detail: "queue a: weight is 0"},
		"Reason(99): queue a":    {Reason: 99, Queue: "a"},
		"the namespace may not use queue a; namespaces dev and test may": {Reason: QueueForbidden, Queue: "a", Detail: "namespaces dev and test may"},
		"the job says that it runs for 48h0m0s, queue a allows 24h0m0s":  {Reason: RuntimeTooLong, Queue: "a", Need: 172800, Limit: 86400},
		"the job says that it runs for 2562047788015215 hours, queue a allows 1s": {
			Reason: RuntimeTooLong, Queue: "a", Need: math.MaxInt64, Limit: 1,
		},
		"the job needs 80 GPUs, queue a never has more than 64.5":        {Reason: NeverWithinLimit, Queue: "a", Need: 80000, Limit: 64500},
		"queue a has 2 GPUs left of 64 (62 are in use), 8.25 are needed": {Reason: OverLimit, Queue: "a", Used: 62000, Need: 8250, Limit: 64000},
		"queue a has 0 GPUs left of 64 (80 are in use), 1 are needed":    {Reason: OverLimit, Queue: "a", Used: 80000, Need: 1000, Limit: 64000},
		"the job needs 2000 GPU-hours, the whole budget of queue a is 1000 (used 3, held 0.5); the period ends 2026-12-01T00:00:00Z": {
			Reason: NeverWithinBudget, Queue: "a", Used: 3 * gpuHour, Held: gpuHour / 2, Need: 2000 * gpuHour, Limit: 1000 * gpuHour, Resets: end,
		},
		"queue research has 12.5 GPU-hours left of 1000 (used 900, held 87.5), 16 are needed; the period ends 2026-12-01T00:00:00Z": {
			Reason: OverBudget, Queue: "research", Used: 900 * gpuHour, Held: 875 * gpuHour / 10, Need: 16 * gpuHour, Limit: 1000 * gpuHour, Resets: end,
		},
		// What is not shown never makes enough of too little.
		"queue a has 0.999 GPU-hours left of 1 (used 0, held 0), 1 are needed": {Reason: OverBudget, Queue: "a", Used: 1, Need: gpuHour, Limit: gpuHour},
		"queue a has 1 GPU-hours left of 1 (used 0, held 0), 1.001 are needed": {Reason: OverBudget, Queue: "a", Need: gpuHour + 1, Limit: gpuHour},
		"queue a has 0 GPU-hours left of 1 (used 1.5, held 0), unlimited are needed; until then nothing; it could start 2026-12-01T00:00:00Z": {
			Reason: BudgetExhausted, Queue: "a", Used: 3 * gpuHour / 2, Need: math.MaxInt64, Limit: gpuHour, CouldStart: end, Detail: "until then nothing",
		},
		"it is not the turn of queue a: what is idle goes first to queues below their guarantee, then to those with less for their weight": {
			Reason: NotYourTurn, Queue: "a",
		},
	} {
		if got := v.Message(); got != want {
			t.Errorf("%+v:\n got %s\nwant %s", v, got, want)
		}
	}
}

func TestHours(t *testing.T) {
	for _, test := range []struct {
		in                int64
		nearest, down, up string
	}{
		{0, "0", "0", "0"},
		{1, "0", "0", "0.001"},
		{1800, "0.001", "0", "0.001"},
		{gpuHour, "1", "1", "1"},
		{-gpuHour * 3 / 2, "-1.5", "-1.5", "-1.5"},
		{10 * gpuHour, "10", "10", "10"},
		{NoLimit - 1, "2562047788015.216", "2562047788015.215", "2562047788015.216"},
		{NoLimit, "unlimited", "unlimited", "unlimited"},
		{math.MinInt64, "-2562047788015.216", "-2562047788015.215", "-2562047788015.216"},
	} {
		if n, d, u := hours(test.in, nearest), hours(test.in, down), hours(test.in, up); n != test.nearest || d != test.down || u != test.up {
			t.Errorf("%d is %s, %s, %s, want %s, %s, %s", test.in, n, d, u, test.nearest, test.down, test.up)
		}
	}
}
