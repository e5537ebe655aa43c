package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"weft.sh/weft/pkg/snapshot"
)

func newPlan(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Forecast what will be wanted, and try what a change of the cluster would do",
		Long: `Forecast what will be wanted and what to have for it, and try what a change of the cluster would do. docs/planning.md says how.

Nothing is changed anywhere.`,
	}
	cmd.AddCommand(newPlanDemand(s), newPlanWhatIf(s))
	return cmd
}

// readSnapshot reads the file, "-" for the standard input.
func (s *shell) readSnapshot(file string) (*snapshot.Document, *snapshot.Objects, error) {
	if file == "-" {
		return snapshot.Read(s.streams.In, "standard input")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return snapshot.Read(f, file)
}

// demandOptions are the flags of weft plan demand.
type demandOptions struct {
	source                                      ledgerSource
	rule                                        demandRule
	trace, class, snapshot, output              string
	horizon, bucket, history                    string
	price, spotPrice, currency                  string
	bucketSeconds, horizonSeconds, historySpans int64
	own                                         prices
}

func newPlanDemand(s *shell) *cobra.Command {
	o := &demandOptions{}
	cmd := &cobra.Command{
		Use:   "demand",
		Short: "Forecast what queues will want, and the nodes to own, reserve or take as spot for it",
		Long: `Forecast the GPU time that queues will want, from the ledger or from a trace in the format of Philly's, and the nodes to have for it.

Three models forecast each queue and class: the last value, the season (a week) and Holt-Winters with a damped trend. Each is judged by
what it missed of the history (WAPE), and the best counts. What the last value missed stands beside it: a model that does not beat that
knows nothing. P50 and P90 are what half, and nine in ten, of the forecasts of the history stayed under.

The base, which P50 is always above, is to be owned or reserved. What is above it up to the peak of P90 comes and goes: it is spot for
queues that ran on spot before or are named by --spot-queue, if there are spot nodes with these GPUs (a GPUClass that selects them, or
--spot-price), and on demand for the others. Prices are those of the GPUClasses, of the cluster of the ledger or of --snapshot.`,
		Example: `  # The next week, from the ledger of the cluster
  weft plan demand

  # The next month, from a file of a ledger, with the classes and the nodes of a snapshot
  weft plan demand --ledger ledger.db --snapshot cluster.json --horizon 30d

  # From a trace, with prices
  weft plan demand --trace philly.csv --price 2.5 --spot-price 0.9 --currency EUR --spot-queue 6214e9`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(); err != nil {
				return err
			}
			return o.run(cmd.Context(), s)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "json or yaml; the default is for people")
	f.StringVar(&o.trace, "trace", "", "A list of jobs in the format of the Philly trace, in place of the ledger")
	f.StringVar(&o.class, "class", "", "The GPUClass that the GPUs of --trace count as")
	f.StringVar(&o.snapshot, "snapshot", "", "A file of weft snapshot, for its GPUClasses and nodes; - is the standard input")
	f.StringArrayVar(&o.rule.queues, "queue", nil, "Only this queue, without those below it; may be repeated. Empty is pods of no queue")
	f.StringArrayVar(&o.rule.spot, "spot-queue", nil, "This queue may run on spot nodes, whether it did or not; may be repeated")
	f.StringVar(&o.horizon, "horizon", "7d", "How far to look ahead: 1d to 90d")
	f.StringVar(&o.history, "history", "90d", "How far to look back, at most: to 3650d")
	f.StringVar(&o.bucket, "bucket", "day", "What is forecast: hour or day")
	f.IntVar(&o.rule.base, "base", 0, "The base is what P50 is below in so many percent of the buckets: 0 (the trough) to 100")
	f.Int64Var(&o.rule.nodeGPUs, "gpus-per-node", 8, "How many GPUs a node has")
	f.StringVar(&o.price, "price", "", "What an hour of one GPU costs whose class has no price, such as 2.5")
	f.StringVar(&o.spotPrice, "spot-price", "", "What it costs as spot")
	f.StringVar(&o.currency, "currency", "", "The currency of --price and --spot-price, such as EUR")
	o.source.addFlags(cmd)
	complete(cmd, "output", "json", "yaml")
	complete(cmd, "bucket", "hour", "day")
	return cmd
}

var currencyCode = regexp.MustCompile(`^[A-Z]{3}$`)

// complete checks the flags and works out what follows from them.
func (o *demandOptions) complete() error {
	if err := validOutput(o.output, "json", "yaml"); err != nil {
		return err
	}
	switch o.bucket {
	case "hour":
		o.bucketSeconds = 3600
	case "day":
		o.bucketSeconds = 86400
	default:
		return fmt.Errorf("--bucket is %q: want hour or day", o.bucket)
	}
	var ok bool
	if o.horizonSeconds, ok = durationNamed(o.horizon); !ok || o.horizonSeconds < 86400 || o.horizonSeconds > 90*86400 || o.horizonSeconds%o.bucketSeconds != 0 {
		return fmt.Errorf("--horizon is %q: want whole %ss from 1d to 90d, such as 7d", o.horizon, o.bucket)
	}
	o.rule.horizon = int(o.horizonSeconds / o.bucketSeconds)
	if o.historySpans, ok = durationNamed(o.history); !ok || o.historySpans < 86400 || o.historySpans > 3650*86400 {
		return fmt.Errorf("--history is %q: want from 1d to 3650d, such as 90d", o.history)
	}
	switch {
	case o.rule.base < 0 || o.rule.base > 100:
		return fmt.Errorf("--base is %d: want percent, 0 to 100", o.rule.base)
	case o.rule.nodeGPUs < 1 || o.rule.nodeGPUs > 1024:
		return fmt.Errorf("--gpus-per-node is %d: want 1 to 1024", o.rule.nodeGPUs)
	case o.trace != "" && o.source.dsn != "":
		return errors.New("--trace and --ledger are given: want one of them")
	case o.class != "" && o.trace == "":
		return errors.New("--class is for --trace: the ledger knows the classes")
	case (o.price != "" || o.spotPrice != "") != (o.currency != ""):
		return fmt.Errorf("--currency is %q, --price %q and --spot-price %q: want a currency with prices", o.currency, o.price, o.spotPrice)
	case o.currency != "" && !currencyCode.MatchString(o.currency):
		return fmt.Errorf("--currency is %q: want a code of ISO 4217, such as EUR", o.currency)
	}
	var err error
	if o.own.price, err = priceNamed("--price", o.price); err != nil {
		return err
	}
	if o.own.spot, err = priceNamed("--spot-price", o.spotPrice); err != nil {
		return err
	}
	o.own.currency = o.currency
	return nil
}

// priceForm is how a price is written: as in a GPUClass.
var priceForm = regexp.MustCompile(`^[0-9]{1,6}([.][0-9]{1,6})?$`)

// priceNamed is a price in millionths, 0 for none.
func priceNamed(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	if !priceForm.MatchString(text) {
		return 0, fmt.Errorf("%s is %q: want a price from 0 to 999999 in steps of a millionth, such as 2.5", flag, text)
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("%s is %q: %w", flag, text, err)
	}
	return q.ScaledValue(resource.Micro), nil
}

func (o *demandOptions) run(ctx context.Context, s *shell) error {
	p, problems, err := o.prices(ctx, s)
	if err != nil {
		return err
	}
	h, err := o.read(ctx, s)
	if err != nil {
		return err
	}
	d, err := newDemandPlan(h, o.rule, p)
	if err != nil {
		return err
	}
	d.Problems = append(d.Problems, problems...)
	if o.output != "" {
		return encode(s.streams.Out, o.output, d)
	}
	return RenderDemand(s.streams.Out, d, s.colour(), ascii())
}

// read is the history of the trace or the ledger.
func (o *demandOptions) read(ctx context.Context, s *shell) (*history, error) {
	if o.trace != "" {
		return traceHistory(o.trace, o.class, o.bucketSeconds, o.historySpans)
	}
	reader, done, err := o.source.open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer done()
	return ledgerHistory(ctx, reader, o.bucket, o.bucketSeconds, o.historySpans)
}

// prices are those of the snapshot, else of the cluster where the ledger is read through it, else those of flags alone.
func (o *demandOptions) prices(ctx context.Context, s *shell) (p prices, problems []string, err error) {
	switch {
	case o.snapshot != "":
		_, objects, err := s.readSnapshot(o.snapshot)
		if err != nil {
			return prices{}, nil, err
		}
		p = priceAll(objects)
	case o.trace == "" && o.source.dsn == "" && os.Getenv(ledgerEnv) == "":
		q, err := s.listQueues(ctx)
		if err != nil {
			return prices{}, nil, err
		}
		p.classes, problems = q.Classes, q.Unreadable
	}
	p.price, p.spot, p.currency = o.own.price, o.own.spot, o.own.currency
	return p, problems, nil
}
