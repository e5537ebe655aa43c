package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestFlagsThatContradict(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nodes twice":              {args: []string{"--nodes=l4=1", "--openb-nodes=x"}, want: "--nodes and --openb-nodes both say which nodes there are: leave out one of them"},
		"pods twice":               {args: []string{"--workload", "--openb-nodes=x", "--openb-pods=y"}, want: "--workload and --openb-pods both say which pods to create: leave out one of them"},
		"pods of a trace, no node": {args: []string{"--openb-pods=y"}, want: "--openb-pods are for the nodes of the same trace: add --openb-nodes"},
		"a limit on no pods":       {args: []string{"--pods=1"}, want: "--pods limits --openb-pods, which is missing"},
		"less than no pods":        {args: []string{"--pods=-1"}, want: "--pods is -1: want 0 or more"},
		"an end without a work":    {args: []string{"--exit"}, want: "--exit stops after a workload: add --workload or --openb-pods"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := newCommand(io.Discard)
			cmd.SetArgs(append([]string{"up"}, c.args...))
			if err := cmd.ExecuteContext(t.Context()); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestHelpSaysWhatThereIsNot(t *testing.T) {
	var out bytes.Buffer
	cmd := newCommand(&out)
	cmd.SetArgs([]string{"up", "--help"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{lacks, "https://github.com/alibaba/clusterdata", "0/2 and 0/1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the help:\n%s", want, out.String())
		}
	}
}
