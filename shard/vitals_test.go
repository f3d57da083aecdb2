package shard_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

// What a coordinator shows of a server: its log and its standby, and the saga that does not end.
func TestVitals(t *testing.T) {
	primary := private(t, nil)
	pgtest.Standby(t, primary, false)
	reader := metric.NewManualReader()
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))
	b := openAt(t, primary.DSN())
	if _, _, err := b.CreateUser(t.Context(), ledger.User{ID: "payer", Name: "p"}, b.hold("payer")); err != nil {
		t.Fatal(err)
	}
	for _, op := range []ledger.Operation{add("payer", "fund", 100), pay("payer", "open", "elsewhere", 1)} {
		op.Saga = op.Kind == ledger.KindTransfer
		if _, err := b.Submit(t.Context(), op, b.holds(op)...); err != nil {
			t.Fatal(err)
		}
	}

	v, err := b.Vitals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.Timeline != 1 || v.Log < 1<<20 || v.Database < 1<<20 || v.Sessions < 1 || v.MaxSessions < v.Sessions || v.Commits < 3 || v.Cached == 0 {
		t.Errorf("vitals are %+v", v)
	}
	if v.OpenSagas != [5]int64{1} || v.OldestSagaAge > 10 {
		t.Errorf("a saga that has just begun: %v, the oldest of %v s", v.OpenSagas, v.OldestSagaAge)
	}
	b.alter(`update saldo.sagas set created_at = created_at - interval '30 min'`)
	if v, err = b.Vitals(t.Context()); err != nil || v.OpenSagas != [5]int64{3: 1} || v.OldestSagaAge < 1800 || v.OldestSagaAge > 1900 {
		t.Errorf("a saga of half an hour: %v, the oldest of %v s, %v", v.OpenSagas, v.OldestSagaAge, err)
	}
	eventually(t, "the standby follows", func() bool {
		v, err := b.Vitals(t.Context())
		return err == nil && len(v.Followers) == 1 && v.Followers[0].State == "streaming"
	})

	shown := show(t, b, reader)
	for name, want := range map[string]float64{
		"saldo.postgres.up": 1, "saldo.postgres.timeline": 1, "saldo.postgres.standbys": 1, "saldo.saga.begun": 1,
	} {
		if got, ok := shown[name]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, want)
		}
	}
	for _, name := range []string{"saldo.postgres.replication.lag", "saldo.postgres.replication.delay", "saldo.saga.oldest.age"} {
		if _, ok := shown[name]; !ok {
			t.Errorf("%s is not shown", name)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := primary.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	shown = show(t, b, reader)
	if up, ok := shown["saldo.postgres.up"]; !ok || up != 0 {
		t.Errorf("a server that is down is %v (%v)", up, ok)
	}
	if _, ok := shown["saldo.postgres.timeline"]; ok {
		t.Error("of a server that is down is told what it was")
	}
}

// show returns the first value of each metric while vitals are shown.
func show(t *testing.T, b *book, reader *metric.ManualReader) map[string]float64 {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var showing sync.WaitGroup
	showing.Go(func() { b.ShowVitals(ctx) })
	defer showing.Wait()
	defer stop()
	values := make(map[string]float64)
	eventually(t, "vitals are shown", func() bool {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				switch data := m.Data.(type) {
				case metricdata.Sum[int64]:
					values[m.Name] = float64(data.DataPoints[0].Value)
				case metricdata.Gauge[float64]:
					values[m.Name] = data.DataPoints[0].Value
				}
			}
		}
		_, shown := values["saldo.postgres.up"]
		return shown
	})
	return values
}
