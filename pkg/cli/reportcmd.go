package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
)

// chosen is what a report and its rows are of.
type chosen struct {
	when
	source ledgerSource
	output string
	queues []string
	label  string
}

func (c *chosen) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.period, "period", "", "The time: this-month (the default), last-month, today, yesterday, 2026-11, 2026-11-21, 2026, 24h, 7d")
	f.StringVar(&c.from, "from", "", "From when: RFC 3339, or the beginning of what --period takes")
	f.StringVar(&c.to, "to", "", "To when: RFC 3339, or the end of what --period takes; the default is now")
	f.StringVar(&c.zone, "time-zone", "UTC", "The time zone of days and months, such as Europe/Berlin")
	f.StringArrayVar(&c.queues, "queue", nil, "Only this queue, without those below it; may be repeated. Empty is pods of no queue")
	f.StringVarP(&c.label, "selector", "l", "", "Only pods with this label, KEY or KEY=VALUE, of those that the ledger keeps")
	c.source.addFlags(cmd)
	complete(cmd, "period", "this-month", "last-month", "today", "yesterday", "24h", "7d")
}

// query is what of the ledger is chosen at that time.
func (c *chosen) query(s *shell, now time.Time) (ledger.Query, *time.Location, error) {
	at, location, err := c.resolve(now)
	if err != nil {
		return ledger.Query{}, nil, err
	}
	q := ledger.Query{From: at.from, To: at.to, Queues: c.queues}
	if n := *s.flags.Namespace; n != "" {
		q.Namespaces = []string{n}
	}
	q.Label, q.LabelIs, _ = strings.Cut(c.label, "=")
	if c.label != "" && q.Label == "" {
		return ledger.Query{}, nil, fmt.Errorf("--selector is %q: want KEY or KEY=VALUE", c.label)
	}
	return q, location, nil
}

// flags are the flags that choose the same, but for the time and the queues.
func (c *chosen) flags(s *shell) []string {
	out := []string{}
	if c.zone != "UTC" {
		out = append(out, "--time-zone "+quoted(c.zone))
	}
	if n := *s.flags.Namespace; n != "" {
		out = append(out, "-n "+quoted(n))
	}
	if c.label != "" {
		out = append(out, "-l "+quoted(c.label))
	}
	if c.source.dsn != "" && !strings.Contains(c.source.dsn, "@") { // it may have a password
		out = append(out, "--ledger "+quoted(c.source.dsn))
	}
	return out
}

// reportOptions are the flags of weft report.
type reportOptions struct {
	chosen
	by      []string
	bucket  string
	tree    bool
	explain bool
	account string
}

// focusBy are the dimensions of FOCUS lines, where none are asked for.
var focusBy = []string{"queue", "namespace", "class", "product", "profile"}

func newReport(s *shell) *cobra.Command {
	o := &reportOptions{}
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Report who used how many GPU-hours, and what they cost",
		Long: `Report who used how many GPU-hours, and what they cost: by queue, namespace, user, workload, class, product (the GPU model), profile (of
MIG), currency, or label:KEY, for any time.

GPU-HOURS were held, whether they were of use or not. CHARGED are what budgets were charged: by the weights of the GPUClasses, and not
start-up where that is free. COST is what was held and charged at the prices of the GPUClasses then.

The figures are the ledger's, which weft-controller writes. --explain has, for every line, the command that prints the rows it is the
sum of.`,
		Example: `  # This month by queue, with what those below each used
  weft report --tree

  # Last month by team and model, for a spreadsheet
  weft report --period last-month --by label:team,product -o csv

  # Every day of November for the accounts of a company
  weft report --period 2026-11 --bucket day --time-zone Europe/Berlin -o focus

  # Where a figure comes from
  weft report --by user --explain

  # From the file of a ledger, without a cluster
  weft report --ledger /var/lib/weft/ledger.db`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(cmd); err != nil {
				return err
			}
			return o.run(cmd.Context(), s, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "json, yaml, csv or focus (FOCUS 1.2); the default is for people")
	f.StringSliceVar(&o.by, "by", []string{"queue"}, "What the lines are of: "+strings.Join(ledgerhttp.Dimensions(), ", ")+" or label:KEY")
	f.StringVar(&o.bucket, "bucket", "", "Split the time: hour, day or month")
	f.BoolVar(&o.tree, "tree", false, "Show the tree of queues: the line of a queue has what those below it used too")
	f.BoolVar(&o.explain, "explain", false, "Show, with every line, the command that prints the rows it is the sum of")
	f.StringVar(&o.account, "billing-account", "weft", "The BillingAccountId of -o focus, such as the name of the cluster")
	o.addFlags(cmd)
	complete(cmd, "output", "json", "yaml", "csv", "focus")
	complete(cmd, "by", ledgerhttp.Dimensions()...)
	complete(cmd, "bucket", "hour", "day", "month")
	cmd.AddCommand(newRows(s), newWaste(s))
	return cmd
}

// complete checks the flags and works out what follows from them.
func (o *reportOptions) complete(cmd *cobra.Command) error {
	if err := validOutput(o.output, "json", "yaml", "csv", "focus"); err != nil {
		return err
	}
	for i, d := range o.by {
		switch {
		case !ledgerhttp.KnownDimension(ledger.Dimension(d)):
			return fmt.Errorf("--by has %q: want %s or label:KEY", d, strings.Join(ledgerhttp.Dimensions(), ", "))
		case slices.Contains(o.by[:i], d):
			return fmt.Errorf("--by has %s twice", d)
		}
	}
	if !slices.Contains([]string{"", "hour", "day", "month"}, o.bucket) {
		return fmt.Errorf("--bucket is %q: want hour, day or month", o.bucket)
	}
	if o.output == "focus" {
		switch {
		case o.tree:
			return errors.New("-o focus has lines that add up, and those of --tree do not: want one of them")
		case o.explain:
			return errors.New("-o focus has no column for --explain: want -o csv or json")
		}
		if !cmd.Flags().Changed("by") {
			o.by = focusBy
		}
		if o.bucket == "" {
			o.bucket = "day"
		}
	}
	if o.tree && !slices.Contains(o.by, "queue") {
		return fmt.Errorf("--tree needs the dimension queue, --by is %s", strings.Join(o.by, ","))
	}
	return nil
}

func (o *reportOptions) run(ctx context.Context, s *shell, now time.Time) error {
	q, location, err := o.query(s, now)
	if err != nil {
		return err
	}
	reader, done, err := o.source.open(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	var parents map[string]string
	if o.tree {
		if parents, err = s.parents(ctx); err != nil {
			return fmt.Errorf("--tree: %w", err)
		}
	}
	u, err := readUsage(ctx, reader, q, UsageOptions{
		Location: location, Bucket: o.bucket, By: o.by, Parents: parents, Explain: o.explaining(s),
	})
	if err != nil {
		return err
	}
	switch o.output {
	case "json", "yaml":
		return encode(s.streams.Out, o.output, u)
	case "csv":
		return UsageCSV(s.streams.Out, u)
	case "focus":
		return UsageFOCUS(s.streams.Out, u, o.account, location)
	}
	return RenderUsage(s.streams.Out, u, s.colour(), ascii())
}

func (o *reportOptions) explaining(s *shell) []string {
	if !o.explain {
		return nil
	}
	out := o.flags(s)
	if o.tree {
		return out // the lines have queues of their own, all of them chosen
	}
	for _, queue := range o.queues {
		out = append(out, "--queue="+quoted(queue))
	}
	return out
}

// readUsage reads what a report is made of. The time ends where the books do: so both readings see the same.
func readUsage(ctx context.Context, r ledgerhttp.Reader, q ledger.Query, o UsageOptions) (Usage, error) {
	at, asOf, err := pickTo(ctx, r, span{q.From, q.To})
	if err != nil {
		return Usage{}, err
	}
	q.To, q.IncludeRollups = at.to, true
	o.From, o.To, o.AsOf = at.from, at.to, asOf
	by := make([]ledger.Dimension, len(o.By))
	for i, d := range o.By {
		by[i] = ledger.Dimension(d)
	}
	lines, err := r.Totals(ctx, q, by, o.Bucket, o.Location.String())
	if err != nil {
		return Usage{}, err
	}
	all, err := r.Totals(ctx, q, nil, "", "")
	if err != nil {
		return Usage{}, err
	}
	return NewUsage(lines, all, o)
}

// rowOptions are the flags of weft report segments.
type rowOptions struct {
	chosen
	pod   string
	open  bool
	where []string
}

func newRows(s *shell) *cobra.Command {
	o := &rowOptions{}
	cmd := &cobra.Command{
		Use:   "segments",
		Short: "Print the rows of the ledger that a report is the sum of",
		Long: `Print the rows of the ledger: who held which GPUs, from when to when, at which rate and price.

A row is a stretch of time in which one pod held the same GPUs under the same terms. Rows are cut to the time that is asked for, so that
their sum is the line of weft report of the same time. Rows older than the ledger keeps (90 days at least) are rolled up: reports still
count them, and this prints none.`,
		Example: `  # A pod, by its UID
  weft report segments --pod 8f0e1d7c-3a50-4b1f-9f2e-5f3f6c1c2b1a

  # What a line of "weft report --by queue,user" is the sum of
  weft report segments --queue research --where user=eve

  # All of last month, for a program
  weft report segments --period last-month -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := validOutput(o.output, "json", "csv"); err != nil {
				return err
			}
			return o.run(cmd.Context(), s, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "json (an object in each line) or csv; the default is for people")
	f.StringVar(&o.pod, "pod", "", "Only the pod with this UID, whenever it ran unless a time is given")
	f.BoolVar(&o.open, "open", false, "Only rows of pods that still run")
	f.StringArrayVar(&o.where, "where", nil, "Only rows with this value of a dimension of weft report, DIMENSION=VALUE; may be repeated")
	o.addFlags(cmd)
	complete(cmd, "output", "json", "csv")
	return cmd
}

func (o *rowOptions) run(ctx context.Context, s *shell, now time.Time) error {
	if o.pod != "" && o.period == "" && o.from == "" && o.to == "" {
		o.from = "1970"
	}
	q, location, err := o.query(s, now)
	if err != nil {
		return err
	}
	q.PodUID, q.OpenOnly = o.pod, o.open
	var where []match
	for _, text := range o.where {
		m, err := parseMatch(text)
		if err != nil {
			return err
		}
		where = append(where, m)
	}
	reader, done, err := o.source.open(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	at, _, err := pickTo(ctx, reader, span{q.From, q.To})
	if err != nil {
		return err
	}
	q.To = at.to
	return printRows(s, o.output, matching(reader.Segments(ctx, q), where), location)
}

func printRows(s *shell, output string, rows iter.Seq2[ledger.Segment, error], location *time.Location) error {
	switch output {
	case "json":
		return RowsJSON(s.streams.Out, rows)
	case "csv":
		return RowsCSV(s.streams.Out, rows)
	}
	return RenderRows(s.streams.Out, rows, location, s.colour(), ascii())
}
