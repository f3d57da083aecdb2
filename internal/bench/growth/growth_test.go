package growth

import (
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
)

func TestOptionsThatCannotBeMeasured(t *testing.T) {
	t.Parallel()
	shards := Options{Shards: []int{1, 2}, Slice: 0.1, ShardAccounts: 100, ShardCallers: 1}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"fine":              {func(*Options) {}, ""},
		"no shards, none":   {func(o *Options) { *o = Options{Accounts: []int{2}} }, ""},
		"more than cores":   {func(o *Options) { o.Shards, o.Slice = []int{runtime.NumCPU()}, 1 }, "choose a smaller slice"},
		"no slice":          {func(o *Options) { o.Slice = 0 }, "0.01 to 1"},
		"shard of nobody":   {func(o *Options) { o.ShardAccounts = 0 }, "two accounts"},
		"no shard":          {func(o *Options) { o.Shards = []int{0} }, "at least one shard"},
		"odd accounts":      {func(o *Options) { o.Accounts = []int{4, 5} }, "5 accounts are not pairs"},
		"uneven entries":    {func(o *Options) { o.HistoryAccounts, o.Entries = 10, []int64{20, 25} }, "25 entries"},
		"too few entries":   {func(o *Options) { o.HistoryAccounts, o.Entries = 10, []int64{0} }, "0 entries"},
		"entries of nobody": {func(o *Options) { o.Entries = []int64{10} }, "of 0 accounts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := shards
			c.change(&options)
			err := options.validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, not %q", err, c.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	result := func(work string, shards int, size, rate, usedUp, postgres, load float64) bench.Result {
		return bench.Result{
			Work: work, Shards: shards, PerSecond: rate,
			Params: map[string]float64{"accounts": size, "entries": size, "slice_used_up": usedUp},
			Cost:   bench.Cost{CPU: map[string]float64{"postgres": postgres, "load": load}},
		}
	}
	again := result(workAccounts, 1, 100000, 1000, 0, 1, 1)
	again.Params["after_checkpoint"] = 1
	for name, c := range map[string]struct {
		results []bench.Result
		want    []bench.Row
	}{
		"shards": {
			[]bench.Result{
				result(workShards, 1, 10, 1000, 0.9, 0.0625, 0.0625),
				result(workShards, 2, 10, 1900, 0.9, 0.0625, 0.0625),
				result(workShards, 4, 10, 3800, 0.9, 0.0625, 0.09375),
			},
			[]bench.Row{
				{Work: "transfers/s of 4 shards", Against: "4 times one", Ours: 3800, Theirs: 4000, Ratio: 0.95, Floor: 0.9, Met: true},
				{Work: "CPU µs of a transfer, 4 shards", Against: "1 shard", Ours: 156.25, Theirs: 125, Ratio: 1.25, Ceiling: 1.25, Met: true},
			},
		},
		"less than linear": {
			[]bench.Result{result(workShards, 1, 10, 1000, 0.9, 0.0625, 0.0625), result(workShards, 4, 10, 3000, 0.9, 0.0625, 0.0625)},
			[]bench.Row{
				{Work: "transfers/s of 4 shards", Against: "4 times one", Ours: 3000, Theirs: 4000, Ratio: 0.75, Floor: 0.9},
				{Work: "CPU µs of a transfer, 4 shards", Against: "1 shard", Ours: 125, Theirs: 125, Ratio: 1, Ceiling: 1.25, Met: true},
			},
		},
		"one shard that waited for something else": {
			[]bench.Result{result(workShards, 1, 10, 500, 0.5, 0.0625, 0.0625), result(workShards, 4, 10, 4000, 0.9, 0.0625, 0.0625)},
			[]bench.Row{
				{Work: "transfers/s of 4 shards", Against: "4 times one", Ours: 4000, Theirs: 2000, Ratio: 2, Floor: 0.9},
				{Work: "CPU µs of a transfer, 4 shards", Against: "1 shard", Ours: 125, Theirs: 125, Ratio: 1, Ceiling: 1.25, Met: true},
			},
		},
		"accounts, long after a checkpoint": {
			[]bench.Result{
				result(workAccounts, 1, 1000, 9000, 0, 0.0625, 0.0625), result(workAccounts, 1, 100000, 5000, 0, 0.125, 0.0625), again,
			},
			[]bench.Row{
				{Work: "CPU µs of a transfer, 100,000 accounts", Against: "1,000 accounts", Ours: 187.5, Theirs: 125, Ratio: 1.5, Ceiling: 1.25},
			},
		},
		"one size only": {[]bench.Result{result(workHistory, 1, 5000, 5000, 0, 0.125, 0.0625)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := growth{run: &bench.Run{Results: c.results}}
			g.judge()
			if !reflect.DeepEqual(g.run.Rows, c.want) {
				t.Errorf("%+v\nnot\n%+v", g.run.Rows, c.want)
			}
		})
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts Postgres servers and etcd")
	}
	h := mayHold(t)
	run, err := Run(t.Context(), Options{
		Shards: []int{2}, Slice: 0.2, ShardAccounts: 20, ShardCallers: 4,
		Warmup: 50 * time.Millisecond, Duration: time.Second, Seed: 1, Audited: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := run.Results[0]
	p := r.Params
	if r.Work != workShards || r.Shards != 2 || r.Callers != 8 || p["accounts"] != 20 || p["entries"] != 20 || p["cpu_slice"] != 0.2 {
		t.Errorf("what was measured: %+v", r)
	}
	if r.Units == 0 || len(r.Errors) > 0 || r.Conserved == nil || !*r.Conserved {
		t.Errorf("%d transfers, errors %v, conserved %v", r.Units, r.Errors, r.Conserved)
	}
	if used := r.Cost.CPU["postgres"] * r.PerSecond / 1000; used == 0 || used > 0.6 {
		t.Errorf("two servers held to 0.2 of a core each used %g cores", used)
	}
	if run.Machine.Postgres == "" || len(run.Settings) == 0 {
		t.Errorf("unknown is what was measured on: %+v, %v", run.Machine, run.Settings)
	}
	if left, _ := filepath.Glob(filepath.Join(h.root, groupName+"*-s[12]")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDisk(t *testing.T) {
	t.Parallel()
	if err := enoughDisk(t.TempDir(), books{workHistory, 1, 10, 10}); err != nil {
		t.Error(err)
	}
	err := enoughDisk(t.TempDir(), books{workHistory, 1, 10, 1 << 40})
	if err == nil || !strings.Contains(err.Error(), "choose fewer") {
		t.Error(err)
	}
}
