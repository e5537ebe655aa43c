package slot

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

// fullBook has a record of every form.
func fullBook() Book {
	migrant := holding("d", "mig", profile("1g.10gb+me"), []string{"1g.10gb+me-0"},
		gpu.Grant{GPU: "g2", Instance: &gpu.Instance{Profile: "1g.10gb+me", Start: 3, Size: 1}})
	migrant.Missing = start.Add(time.Second)
	return Book{[]Record{
		{Name: "a", Resource: shares, Slots: slotsOf(shares, 10, 12), Allocated: start.In(time.FixedZone("", 2*3600)).Add(123456789)},
		holding("b", "wide", shares, slotsOf(shares, 0, 1), gpu.Grant{GPU: "g0", MilliGPU: 20, MemoryMiB: 7}, gpu.Grant{GPU: "g1", MilliGPU: 20, MemoryMiB: 7}),
		holding("c", "big", whole, slotsOf(whole, 3, 4), gpu.Grant{GPU: "g3"}, gpu.Grant{GPU: "g4"}),
		migrant,
	}}
}

func encode(t testing.TB, b Book) []byte {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestWhatIsEncodedIsDecoded(t *testing.T) {
	for name, b := range map[string]Book{"the empty book": {}, "records of every form": fullBook()} {
		t.Run(name, func(t *testing.T) {
			data := encode(t, b)
			got, err := Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(b.Records, got.Records); diff != "" && len(b.Records)+len(got.Records) > 0 {
				t.Errorf("decoded (-want +got)\n%s", diff)
			}
			if again := encode(t, got); !bytes.Equal(data, again) {
				t.Errorf("encoded again it is\n%s\nnot\n%s", again, data)
			}
		})
	}
	if none, empty := encode(t, Book{}), encode(t, Book{[]Record{}}); !bytes.Equal(none, empty) {
		t.Errorf("two empty books are encoded as %s and %s", none, empty)
	}
}

func TestEncodeRefusesATimeThatJSONCannotExpress(t *testing.T) {
	if data, err := (Book{[]Record{{Name: "a", Allocated: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)}}}).Encode(); err == nil {
		t.Errorf("encoded as %s", data)
	}
}

func TestDecode(t *testing.T) {
	full := string(encode(t, fullBook()))
	for name, c := range map[string]struct {
		data string
		// old and new change one thing of the full book.
		old, new string
		want     error
		says     string
	}{
		"nothing":                         {says: "unexpected end"},
		"half a book":                     {data: full[:len(full)/2], says: "unexpected end"},
		"something after the book":        {data: full + "{}", says: "after top-level value"},
		"no book":                         {data: "[]", says: "checkpoint: "},
		"no version":                      {data: "{}", want: ErrVersion, says: "got 0, want 1"},
		"another version":                 {old: `"version":1`, new: `"version":2`, want: ErrVersion, says: "got 2, want 1"},
		"another version of another form": {data: `{"version": 7, "records": "in another file"}`, want: ErrVersion, says: "got 7"},
		"a record without a name":         {old: `"name":"a"`, new: `"name":""`, says: `record "": has no name`},
		"records not in order":            {old: `"name":"b"`, new: `"name":"x"`, says: `record "c" is not in order`},
		"two records of one name":         {old: `"name":"b"`, new: `"name":"a"`, says: `record "a" is not in order`},
		"an unknown kind":                 {old: `"kind":2`, new: `"kind":9`, says: `resource`},
		"a kind beyond its range":         {old: `"kind":2`, new: `"kind":300`, says: `cannot unmarshal`},
		"a profile that is none":          {old: `"profile":"1g.10gb+me"`, new: `"profile":"large"`, says: `is none`},
		"a MIG resource without profile":  {old: `"profile":"1g.10gb+me"`, new: `"profile":""`, says: `is none`},
		"a profile of what is not MIG":    {old: `"kind":2`, new: `"kind":2,"profile":"1g.10gb"`, says: `is none`},
		"slots not sorted":                {old: `"share-11"`, new: `"share-13"`, says: "sorted"},
		"a slot twice":                    {old: `"share-11"`, new: `"share-10"`, says: "each once"},
		"a slot without a name":           {old: `"share-10"`, new: `""`, says: "slots"},
		"no slots":                        {data: `{"version":1,"records":[{"name":"a","resource":{"kind":1},"slots":[],"allocated":"2026-11-20T12:00:00Z"}]}`, says: "one or more"},
		"a holder without a UID":          {old: `"uid":"uid-wide"`, new: `"uid":""`, says: "UID"},
		"a holder without a container":    {old: `"container":"main"`, new: `"container":""`, says: "container"},
		"a holder without a name":         {old: `"pod":"wide"`, new: `"pod":""`, says: "holder"},
		"an assignment that is none":      {old: `"assignment":"main=g0`, new: `"assignment":"main~g0`, says: "malformed"},
		"grants that are not the assignment's": {
			old: `"MilliGPU":20`, new: `"MilliGPU":30`, says: "want what the assignment",
		},
		"another GPU than the assignment's": {old: `"GPU":"g3"`, new: `"GPU":"g5"`, says: "want what the assignment"},
		"another instance than the assignment's": {
			old: `"Start":3`, new: `"Start":2`, says: "want what the assignment",
		},
		"an instance beside a share":           {old: `"MilliGPU":0`, new: `"MilliGPU":20`, says: "want what the assignment"},
		"an assignment for another container":  {old: `"assignment":"main=g0`, new: `"assignment":"other=g0`, says: "want what the assignment"},
		"two assignments of one pod":           {old: `"uid":"uid-wide"`, new: `"uid":"uid-big"`, says: `pod uid-big holds "main=g3,g4" here and "main=g0`},
		"a time that is none":                  {old: `"missing":"2026`, new: `"missing":"2O26`, says: "parsing time"},
		"a name that is a number":              {old: `"name":"a"`, new: `"name":1`, says: "cannot unmarshal"},
		"records that are not a list of those": {data: `{"version":1,"records":{}}`, says: "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			data := c.data
			if c.old != "" {
				if !strings.Contains(full, c.old) {
					t.Fatalf("%q is not in %s", c.old, full)
				}
				data = strings.Replace(full, c.old, c.new, 1)
			}
			got, err := Decode([]byte(data))
			if err == nil || !strings.Contains(err.Error(), c.says) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want one that says %q and is %v", err, c.says, c.want)
			}
			if errors.Is(err, ErrVersion) != (c.want == ErrVersion) {
				t.Errorf("error %v is ErrVersion: %t", err, c.want == nil)
			}
			if len(got.Records) > 0 {
				t.Errorf("beside the error there are records: %v", got.Records)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, Book{}))
	f.Add(encode(f, fullBook()))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"records":[{"name":"a","resource":{"kind":3,"profile":"1g.5gb"},"slots":["\ud800"],"allocated":"0000-01-01T00:00:00+23:59"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Decode(data)
		if err != nil {
			return
		}
		once := encode(t, b)
		again, err := Decode(once)
		if err != nil {
			t.Fatalf("what was accepted and encoded is refused: %v\n%s", err, once)
		}
		if twice := encode(t, again); !bytes.Equal(once, twice) {
			t.Fatalf("encoded\n%s\nand then\n%s", once, twice)
		}
		// What is accepted can be worked with.
		for _, r := range b.Records {
			if found, ok := b.Find(r.Name); !ok || found.Name != r.Name {
				t.Fatalf("record %q is not found", r.Name)
			}
			b.States(Offer{r.Resource, 2}, []gpu.Device{plain(0)}, false)
		}
		b.pods("")
		b.Reconcile(Kubelet{Checkpoint: []Claim{}, Active: []Claim{}}, nil, start)
	})
}

func TestBookIsAValue(t *testing.T) {
	b := fullBook()
	before := encode(t, b)
	b.With(Record{Name: "a"})
	b.With(Record{Name: "aa"})
	b.Bind("a", Holder{UID: "x"})
	b.Bind("b", Holder{UID: "uid-wide", Container: "main"})
	b.Reconcile(Kubelet{Checkpoint: []Claim{}, Active: []Claim{}}, nil, start.Add(time.Hour))
	b.Reconcile(Kubelet{Active: []Claim{}}, nil, start.Add(-time.Hour))
	b.Recover(Kubelet{Checkpoint: []Claim{{UID: "u", Container: "c", Resource: whole, Slots: []string{"gpu-0"}, Name: "0"}}},
		map[string]Pod{"u": {UID: "u"}}, start)
	if after := encode(t, b); !bytes.Equal(before, after) {
		t.Errorf("the book became\n%s\nit was\n%s", after, before)
	}
}

func TestBind(t *testing.T) {
	b := fullBook()
	wide, _ := b.Find("b")
	later := *wide.Holder
	later.Bound = start.Add(time.Hour)
	moved := later
	moved.UID = "another"
	other := later
	other.Container = "another"
	for name, c := range map[string]struct {
		record string
		holder Holder
		want   *Holder
	}{
		"a free record is bound":                                        {"a", later, &later},
		"a bound record stays bound since its first start":              {"b", later, wide.Holder},
		"a record never moves to another pod":                           {"b", moved, wide.Holder},
		"the container of a pod that has it can turn out to be another": {"b", other, &other},
		"what is not there is not made up from nothing at all":          {"x", later, nil},
	} {
		t.Run(name, func(t *testing.T) {
			after := b.Bind(c.record, c.holder)
			got, _ := after.Find(c.record)
			if diff := cmp.Diff(c.want, got.Holder); diff != "" {
				t.Errorf("holder (-want +got)\n%s", diff)
			}
			if len(after.Records) != len(b.Records) || !slices.IsSortedFunc(after.Records, func(a, b Record) int { return strings.Compare(a.Name, b.Name) }) {
				t.Errorf("the records are now %v", after.Records)
			}
		})
	}
	for uid, want := range map[string]bool{"uid-wide": true, "uid-mig": true, "another": false, "": false} {
		if b.Holds(uid) != want {
			t.Errorf("pod %q holds: %t", uid, !want)
		}
	}
}

func TestWithKeepsTheOrder(t *testing.T) {
	var b Book
	for _, name := range []string{"m", "c", "x", "c", "a", "z", "m"} {
		b = b.With(Record{Name: name, Slots: []string{name + "-0"}})
	}
	var got []string
	for _, r := range b.Records {
		got = append(got, r.Name)
	}
	if diff := cmp.Diff([]string{"a", "c", "m", "x", "z"}, got); diff != "" {
		t.Errorf("names (-want +got)\n%s", diff)
	}
	if _, ok := b.Find("b"); ok {
		t.Error("b is found")
	}
}
