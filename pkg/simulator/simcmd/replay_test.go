package simcmd

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replayed runs weft sim replay with the arguments.
func replayed(t *testing.T, args ...string) (out, errOut string, err error) {
	t.Helper()
	cmd := New()
	var o, e bytes.Buffer
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SetArgs(append([]string{"replay"}, args...))
	cmd.SilenceUsage = true
	err = cmd.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

func inFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const phillyHeader = "timestamp,duration,num_gpus,gpu_time,cluster\n"

func TestReplayPhilly(t *testing.T) {
	file := inFile(t, "jobs.csv", phillyHeader+`2017-10-02 00:00:00,3600.0,8,28800.0,a
2017-10-02 00:01:00,3600.0,16,57600.0,b
2017-10-02 00:02:00,600.0,0,0.0,a
2017-10-02 00:03:00,600.0,4,2400.0,a
2017-10-02 00:04:00,600.0,32,19200.0,a
`)
	out, errOut, err := replayed(t, "philly", "--jobs", file, "--nodes", "2", "--from", "2017-10-02", "--for", "24h", "-o", "json", "--policy", "weft,fifo", "--series")
	if err != nil {
		t.Fatal(err)
	}
	if want := file + ":6: job line-6: it fits no node"; strings.Count(errOut, want) != 1 {
		t.Errorf("told %q, want %q once", errOut, want)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2", len(lines))
	}
	type result struct {
		Policy    string  `json:"policy"`
		Jobs      int     `json:"jobs"`
		Gangs     int     `json:"gangs"`
		Finished  int     `json:"finished"`
		Refused   int     `json:"refused"`
		WaitP95   int64   `json:"wait_p95_seconds"`
		GangP95   int64   `json:"gang_wait_p95_seconds"`
		AllocMean float64 `json:"alloc_mean"`
		Queues    []struct {
			Queue string `json:"queue"`
		} `json:"queues"`
		Series struct {
			Points []struct{} `json:"points"`
		} `json:"series"`
	}
	for i, want := range []result{
		{Policy: "weft", Jobs: 4, Gangs: 2, Finished: 3, Refused: 1, WaitP95: 3540, GangP95: 3540},
		{Policy: "fifo", Jobs: 4, Gangs: 2, Finished: 3, Refused: 1, WaitP95: 7020, GangP95: 3540},
	} {
		var got result
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		if got.Policy != want.Policy || got.Jobs != want.Jobs || got.Gangs != want.Gangs || got.Finished != want.Finished ||
			got.Refused != want.Refused || got.WaitP95 != want.WaitP95 || got.GangP95 != want.GangP95 {
			t.Errorf("%+v\nwant %+v", got, want)
		}
		if alloc := 100 * (8 + 16 + 4/6.0) / (16 * 24); got.AllocMean < alloc-1e-3 || got.AllocMean > alloc+1e-3 {
			t.Errorf("%v percent allocated, want %v", got.AllocMean, alloc)
		}
		if len(got.Queues) != 2 || len(got.Series.Points) == 0 {
			t.Errorf("%d queues, %d points", len(got.Queues), len(got.Series.Points))
		}
	}
}

func TestReplayBadInput(t *testing.T) {
	row := "2017-10-02 00:00:00,3600.0,8,28800.0,a\n"
	for name, c := range map[string]struct {
		text string
		args []string
		want string
	}{
		"a truncated row":      {phillyHeader + row + "2017-10-02 00:0", nil, "jobs.csv:3: 1 fields: want 5"},
		"an unknown column":    {"timestamp,duration,num_gpu,cluster\n", nil, `jobs.csv:1: column "num_gpu" is not known`},
		"a negative duration":  {phillyHeader + "2017-10-02 00:00:00,-1,8,0,a\n", nil, `jobs.csv:2: duration is "-1"`},
		"rows out of order":    {phillyHeader + row + "2017-10-01 00:00:00,1,1,1,a\n", nil, "jobs.csv:3: timestamp is"},
		"nothing in that time": {phillyHeader + row, []string{"--from", "2018-01-01"}, "no job that runs on GPUs from 2018-01-01"},
		"an unknown policy":    {phillyHeader + row, []string{"--policy", "lifo"}, `--policy: policy "lifo": want all or some of weft`},
		"an unknown strategy":  {phillyHeader + row, []string{"--strategy", "x"}, `--strategy is "x"`},
		"no nodes":             {phillyHeader + row, []string{"--nodes", "0"}, "0 nodes of 8 GPUs"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := replayed(t, append([]string{"philly", "--jobs", inFile(t, "jobs.csv", c.text)}, c.args...)...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}

// TestReplayOpenb has pods come and leave; at a fifth of the load all have room, at five times many are refused and what is left fills
// the cluster.
func TestReplayOpenb(t *testing.T) {
	nodes := inFile(t, "nodes.csv", "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,4,T4\nb,64000,262144,8,V100M16\nc,32000,65536,0,\n")
	pods := inFile(t, "pods.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np,4000,1024,1,500,\nq,4000,1024,2,1000,V100M16\nr,2000,1024,0,0,\n")
	for _, c := range []struct {
		load        string
		least, most float64
		refused     bool
	}{{"0.02", 0.5, 5, false}, {"5", 80, 100, true}} {
		out, _, err := replayed(t, "openb", "--nodes", nodes, "--pods", pods, "--load", c.load, "-o", "json", "--for", "200h")
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Jobs, Finished, Refused, Unfinished int
			AllocMean                           float64 `json:"alloc_mean"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if got.AllocMean < c.least || got.AllocMean > c.most || (got.Refused > 0) != c.refused || got.Unfinished != 0 {
			t.Errorf("load %s: %+v", c.load, got)
		}
	}
}

func TestReplayScenarioTable(t *testing.T) {
	out, _, err := replayed(t, "scenario", "../../../docs/examples/replay.yaml", "--policy", "weft,podwise")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"POLICY", "weft", "podwise", "GPU-hours of incomplete gangs  0.00"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}
