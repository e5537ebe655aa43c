package gpu

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func whole(id ID) Grant                   { return Grant{GPU: id} }
func share(id ID, milli, mib int64) Grant { return Grant{GPU: id, MilliGPU: milli, MemoryMiB: mib} }

func main1(grants ...Grant) ContainerGrants {
	return ContainerGrants{Container: "main", Grants: grants}
}
func assigned(c ...ContainerGrants) Assignment { return Assignment{Containers: c} }
func inst(profile string, start, size int) *Instance {
	return &Instance{Profile: profile, Start: start, Size: size}
}

func instance(id ID, profile string, start, size int) Grant {
	return Grant{GPU: id, Instance: inst(profile, start, size)}
}

func TestParseAssignmentAccepts(t *testing.T) {
	tests := map[string]struct {
		text string
		want Assignment
	}{
		"nothing":                      {"", Assignment{}},
		"one whole GPU":                {"main=GPU-1f0c", assigned(main1(whole("GPU-1f0c")))},
		"two whole GPUs, in order":     {"main=GPU-b,GPU-a", assigned(main1(whole("GPU-b"), whole("GPU-a")))},
		"a share":                      {"main=gpu-0:250m/20480Mi", assigned(main1(share("gpu-0", 250, 20480)))},
		"the smallest share":           {"main=g:1m/1Mi", assigned(main1(share("g", 1, 1)))},
		"the largest share":            {"main=g:1000m/1073741824Mi", assigned(main1(share("g", 1000, MaxMemoryMiB)))},
		"a MIG instance":               {"main=g:3g.40gb@4:4", assigned(main1(instance("g", "3g.40gb", 4, 4)))},
		"an instance with extensions":  {"main=g:1g.24gb+me.all@0:2", assigned(main1(instance("g", "1g.24gb+me.all", 0, 2)))},
		"an instance of all of it":     {"main=g:7g.80gb@0:64", assigned(main1(instance("g", "7g.80gb", 0, 64)))},
		"whole GPUs and instances":     {"main=a,b:1g.5gb@6:1", assigned(main1(whole("a"), instance("b", "1g.5gb", 6, 1)))},
		"a GPU id with all characters": {"main=A.z_0-9", assigned(main1(whole("A.z_0-9")))},
		"two containers on one GPU up to all of it": {
			"web=g:500m/1Mi;batch=g:500m/2Mi",
			assigned(ContainerGrants{Container: "web", Grants: []Grant{share("g", 500, 1)}},
				ContainerGrants{Container: "batch", Grants: []Grant{share("g", 500, 2)}}),
		},
		"one container with two shares of one GPU": {
			"main=g:100m/1Mi,g:100m/1Mi", assigned(main1(share("g", 100, 1), share("g", 100, 1))),
		},
		"an init container that holds what runs later": {
			"~setup=g;main=g", assigned(ContainerGrants{Container: "setup", Init: true, Grants: []Grant{whole("g")}}, main1(whole("g"))),
		},
		"two init containers, one after the other, on one GPU": {
			"~a=g;~b=g:900m/1Mi",
			assigned(ContainerGrants{Container: "a", Init: true, Grants: []Grant{whole("g")}},
				ContainerGrants{Container: "b", Init: true, Grants: []Grant{share("g", 900, 1)}}),
		},
		"an init container whose instance overlaps one of later": {
			"~setup=g:3g.40gb@0:4;main=g:1g.10gb@1:1",
			assigned(ContainerGrants{Container: "setup", Init: true, Grants: []Grant{instance("g", "3g.40gb", 0, 4)}},
				main1(instance("g", "1g.10gb", 1, 1))),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseAssignment(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if got.String() != tc.text {
				t.Errorf("prints as %q, want %q", got.String(), tc.text)
			}
		})
	}
}

func TestParseAssignmentRefuses(t *testing.T) {
	tests := map[string]struct {
		text string
		want string // the message after "malformed GPU assignment: "
	}{
		"a container without grants":               {"main", `"main": want container=grant[,grant…]`},
		"an empty list of grants":                  {"main=", `container "main": GPU id "": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
		"an empty container":                       {"main=g;", `"": want container=grant[,grant…]`},
		"a comma too many":                         {"main=g,", `container "main": GPU id "": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
		"a container without a name":               {"=g", `container "": want a DNS label`},
		"a container in capitals":                  {"Main=g", `container "Main": want a DNS label`},
		"an init mark too many":                    {"~~main=g", `container "~main": want a DNS label`},
		"a space":                                  {"main= g", `container "main": GPU id " g": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
		"a newline at the end":                     {"main=g\n", `container "main": GPU id "g\n": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
		"a GPU id that is too long":                {"main=" + strings.Repeat("g", 64), fmt.Sprintf(`container "main": GPU id %q: want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`, strings.Repeat("g", 64))},
		"a container that stands twice":            {"main=a;main=b", `container "main" stands twice`},
		"an init container of the name of another": {"~main=a;main=b", `container "main" stands twice`},
		"nothing after the colon":                  {"main=g:", `container "main": grant "g:": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"a share without memory":                   {"main=g:250m", `container "main": grant "g:250m": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"a share without units":                    {"main=g:250/1024", `container "main": grant "g:250/1024": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"a share of nothing":                       {"main=g:0m/1Mi", `container "main": grant "g:0m/1Mi": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"a share without a byte":                   {"main=g:1m/0Mi", `container "main": share of 1 milli-GPU and 0 MiB: want 1 to 1000 milli-GPU and 1 to 1073741824 MiB`},
		"more than one GPU as a share":             {"main=g:1001m/1Mi", `container "main": share of 1001 milli-GPU and 1 MiB: want 1 to 1000 milli-GPU and 1 to 1073741824 MiB`},
		"more memory than can be summed":           {"main=g:1m/9223372036854775807Mi", `container "main": share of 1 milli-GPU and 9223372036854775807 MiB: want 1 to 1000 milli-GPU and 1 to 1073741824 MiB`},
		"more memory than a number holds":          {"main=g:1m/9223372036854775808Mi", `container "main": grant "g:1m/9223372036854775808Mi": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"a negative share":                         {"main=g:-1m/1Mi", `container "main": grant "g:-1m/1Mi": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"a sign":                                   {"main=g:+1m/1Mi", `container "main": grant "g:+1m/1Mi": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"a leading zero":                           {"main=g:01m/1Mi", `container "main": grant "g:01m/1Mi": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"digits of another script":                 {"main=g:٣m/1Mi", `container "main": grant "g:٣m/1Mi": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"an instance without a place":              {"main=g:1g.10gb", `container "main": grant "g:1g.10gb": want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size`},
		"an instance without a size":               {"main=g:1g.10gb@1", `container "main": grant "g:1g.10gb@1": want gpu:profile@start:size`},
		"an instance of size 0":                    {"main=g:1g.10gb@1:0", `container "main": MIG instance 1g.10gb at 1:0: want start >= 0, size >= 1 and start+size <= 64`},
		"an instance beyond the GPU":               {"main=g:1g.10gb@64:1", `container "main": MIG instance 1g.10gb at 64:1: want start >= 0, size >= 1 and start+size <= 64`},
		"an instance whose end overflows": {
			"main=g:1g.10gb@1:9223372036854775807",
			`container "main": MIG instance 1g.10gb at 1:9223372036854775807: want start >= 0, size >= 1 and start+size <= 64`,
		},
		"an instance of no profile": {"main=g:@0:1", `container "main": MIG profile "": want a name such as 1g.10gb`},
		"a compute instance":        {"main=g:1c.2g.10gb@0:1", `container "main": MIG profile "1c.2g.10gb": want a name such as 1g.10gb`},

		// What contradicts itself, however well it is written.
		"one GPU whole twice in a container": {"main=g,g", `container "main", grant 2: GPU g is held whole beside others`},
		"one GPU whole in two containers":    {"a=g;b=g", `container "b", grant 1: GPU g is held whole beside others`},
		"a GPU whole and shared":             {"a=g;b=g:1m/1Mi", `container "b", grant 1: GPU g is held whole beside others`},
		"a GPU shared and whole":             {"a=g:1m/1Mi;b=g", `container "b", grant 1: GPU g is held whole beside others`},
		"shares of more than the GPU":        {"a=g:600m/1Mi;b=g:401m/1Mi", `container "b", grant 1: GPU g is shared to 100.1%`},
		"an instance twice":                  {"main=g:1g.10gb@0:1,g:1g.10gb@0:1", `container "main", grant 2: GPU g has overlapping MIG instances: 1g.10gb@0:1 and another`},
		"instances that overlap":             {"a=g:3g.40gb@4:4;b=g:1g.10gb@5:1", `container "b", grant 1: GPU g has overlapping MIG instances: 1g.10gb@5:1 and another`},
		"a GPU partitioned and shared":       {"main=g:1g.10gb@0:1,g:1m/1Mi", `container "main", grant 2: GPU g is partitioned and held in another way too`},
		"a GPU partitioned and whole":        {"a=g;b=g:1g.10gb@0:1", `container "b", grant 1: GPU g is partitioned and held in another way too`},
		"partitioned before it is shared":    {"~a=g:1g.10gb@0:1;b=g:1m/1Mi", `container "b", grant 1: GPU g is partitioned and held in another way too`},
		"an init container and a sidecar that runs beside it": {
			"sidecar=g;~setup=g", `container "setup", grant 1: GPU g is held whole beside others`,
		},
		"an init container and a sidecar that together have too much": {
			"sidecar=g:500m/1Mi;~setup=g:501m/1Mi", `container "setup", grant 1: GPU g is shared to 100.1%`,
		},
		"an init container's instance over that of a sidecar beside it": {
			"sidecar=g:1g.10gb@0:1;~setup=g:3g.40gb@0:4;main=h",
			`container "setup", grant 1: GPU g has overlapping MIG instances: 3g.40gb@0:4 and another`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseAssignment(tc.text)
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("ParseAssignment(%q) = %v, %v: want an error that wraps ErrMalformed", tc.text, got, err)
			}
			if diff := cmp.Diff(ErrMalformed.Error()+": "+tc.want, err.Error()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if !got.Empty() {
				t.Errorf("an assignment beside the error: %v", got)
			}
		})
	}
}

func TestParseAssignmentIsBounded(t *testing.T) {
	// As long as is accepted, and all of it in one container.
	text := "main=g" + strings.Repeat(",g:1m/1Mi", (MaxAssignmentBytes-len("main=g"))/len(",g:1m/1Mi"))
	if _, err := ParseAssignment(text); err == nil || strings.Contains(err.Error(), "bytes") {
		t.Errorf("%d bytes: got %v, want an error about what they say", len(text), err)
	}
	text = strings.Repeat("x", MaxAssignmentBytes+1)
	_, err := ParseAssignment(text)
	if want := "malformed GPU assignment: 65537 bytes, at most 65536 are accepted"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// What is repeated of a bad value is bounded as well.
	for _, text := range []string{strings.Repeat("x", 1000), strings.Repeat("x", 1000) + "=g:", "main=g:" + strings.Repeat("x", 1000)} {
		if _, err := ParseAssignment(text); err == nil || len(err.Error()) > 400 {
			t.Errorf("an error of %d bytes for a value of %d", len(fmt.Sprint(err)), len(text))
		}
	}
}

func TestUsesIsTheMostHeldAtAnyTime(t *testing.T) {
	use := func(id ID, milli, mib int64) Use { return Use{GPU: id, MilliGPU: milli, MemoryMiB: mib} }
	tests := map[string]struct {
		text string
		want []Use
	}{
		"nothing":                          {"", []Use{}},
		"whole GPUs, by id":                {"main=b,a", []Use{{GPU: "a", Whole: true}, {GPU: "b", Whole: true}}},
		"containers that run together add": {"a=g:100m/1Mi;b=g:200m/2Mi,h:50m/4Mi", []Use{use("g", 300, 3), use("h", 50, 4)}},
		"an init container of less adds nothing": {
			"~setup=g:100m/1Mi;main=g:200m/2Mi", []Use{use("g", 200, 2)},
		},
		"an init container of more adds the difference": {
			"~setup=g:300m/3Mi;main=g:200m/2Mi", []Use{use("g", 300, 3)},
		},
		"share and memory are two maxima": {
			"~setup=g:300m/1Mi;main=g:200m/2Mi", []Use{use("g", 300, 2)},
		},
		"init containers run one after the other": {
			"~a=g:300m/1Mi;~b=g:400m/1Mi;main=g:100m/9Mi", []Use{use("g", 400, 9)},
		},
		"an init container on another GPU holds that too": {
			"~setup=a:300m/1Mi;main=b:100m/1Mi", []Use{use("a", 300, 1), use("b", 100, 1)},
		},
		"whole first and shared later is whole": {"~setup=g;main=g:100m/1Mi", []Use{{GPU: "g", Whole: true}}},
		"shared first and whole later is whole": {"~setup=g:100m/1Mi;main=g", []Use{{GPU: "g", Whole: true}}},
		"a sidecar runs beside the init container after it": {
			"sidecar=g:100m/1Mi;~setup=g:300m/3Mi;main=g:50m/5Mi", []Use{use("g", 400, 6)},
		},
		"a sidecar does not run beside the init container before it": {
			"~setup=g:300m/3Mi;sidecar=g:100m/1Mi;main=g:50m/5Mi", []Use{use("g", 300, 6)},
		},
		"between sidecars": {
			"a=g:100m/1Mi;~x=g:500m/1Mi;b=g:100m/1Mi;~y=g:450m/1Mi;main=g:1m/1Mi", []Use{use("g", 650, 3)},
		},
		"instances, by start": {
			"a=g:1g.10gb@6:1;b=g:3g.40gb@0:4",
			[]Use{{GPU: "g", Instances: []Instance{{"3g.40gb", 0, 4}, {"1g.10gb", 6, 1}}}},
		},
		"an instance that an init container hands on counts once": {
			"~setup=g:1g.10gb@6:1,g:1g.10gb@5:1;main=g:1g.10gb@6:1",
			[]Use{{GPU: "g", Instances: []Instance{{"1g.10gb", 5, 1}, {"1g.10gb", 6, 1}}}},
		},
		"two init containers with one instance": {
			"~a=g:1g.10gb@6:1;~b=g:1g.10gb@6:1", []Use{{GPU: "g", Instances: []Instance{{"1g.10gb", 6, 1}}}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a, err := ParseAssignment(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, a.Uses()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestGrantValidateRefusesWhatTheTextCannotSay(t *testing.T) {
	tests := map[string]struct {
		grant Grant
		want  string
	}{
		"an instance with a share":    {Grant{GPU: "g", MilliGPU: 1, Instance: inst("1g.5gb", 0, 1)}, "a MIG grant has neither share nor memory"},
		"an instance with memory":     {Grant{GPU: "g", MemoryMiB: 1, Instance: inst("1g.5gb", 0, 1)}, "a MIG grant has neither share nor memory"},
		"a whole GPU with memory":     {Grant{GPU: "g", MemoryMiB: 1}, "share of 0 milli-GPU and 1 MiB: want 1 to 1000 milli-GPU"},
		"a negative share":            {Grant{GPU: "g", MilliGPU: -1, MemoryMiB: 1}, "share of -1 milli-GPU and 1 MiB: want 1 to 1000 milli-GPU"},
		"a share of negative memory":  {Grant{GPU: "g", MilliGPU: 1, MemoryMiB: -1}, "share of 1 milli-GPU and -1 MiB: want 1 to 1000 milli-GPU and 1 to 1073741824 MiB"},
		"an id that cannot be parsed": {Grant{GPU: "a:b"}, `GPU id "a:b": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, fmt.Sprint(tc.grant.Validate())); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestAssignmentValidateRefusesAContainerThatHoldsNothing(t *testing.T) {
	err := assigned(main1()).Validate()
	if want := `container "main" holds nothing`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
