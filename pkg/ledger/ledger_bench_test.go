package ledger

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"weft.sh/weft/pkg/ledger/ledgertest"
)

// BenchmarkCommit writes new segments, so many in each commit, with every commit on the disk when it returns.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprintf("SQLite/%d", size), func(b *testing.B) { benchmarkCommit(b, filepath.Join(b.TempDir(), "ledger.db"), size) })
		b.Run(fmt.Sprintf("PostgreSQL/%d", size), func(b *testing.B) { benchmarkCommit(b, ledgertest.Postgres(b).Database(), size) })
	}
}

func benchmarkCommit(b *testing.B, dsn string, size int) {
	db, epoch := led(b, dsn)
	lives := history(1, 1000, 3600)
	n := 0
	for b.Loop() {
		segments := make([]Segment, size)
		for i := range segments {
			s := lives[n%len(lives)].Segment
			s.PodUID = fmt.Sprintf("%d-%s", n, s.PodUID)
			s.Through = s.Start
			segments[i] = s
			n++
		}
		commit(b, db, epoch, int64(n), segments...)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkTick charges 5000 open segments on, as every tick does in a cluster of that many pods.
func BenchmarkTick(b *testing.B) {
	db, epoch := led(b, filepath.Join(b.TempDir(), "ledger.db"))
	lives := history(1, 5000, 1)
	segments := make([]Segment, len(lives))
	for i := range lives {
		segments[i] = lives[i].Segment
	}
	for n := int64(0); b.Loop(); n++ {
		for i := range segments {
			segments[i].Through = segments[i].Start + n
		}
		commit(b, db, epoch, n, segments...)
	}
}

// BenchmarkRead reads a ledger of 200,000 segments, a month of some clusters.
func BenchmarkRead(b *testing.B) {
	ctx := context.Background()
	db, epoch := led(b, filepath.Join(b.TempDir(), "ledger.db"))
	for seed := range uint64(40) {
		segments := random(seed, 5000, epochStart, 30*24*3600)
		for i := range segments {
			segments[i].PodUID = fmt.Sprintf("%d-%s", seed, segments[i].PodUID)
		}
		commit(b, db, epoch, 0, segments...)
	}
	b.Run("Charged", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Charged(ctx, epochStart+3600, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Totals", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Totals(ctx, Query{}, []Dimension{"queue", "label:model"}, "day", "Europe/Berlin"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
