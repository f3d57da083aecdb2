package local_test

import (
	"testing"

	"github.com/saldo-ledger/saldo/internal/local"
)

// A primary dies, its standby takes over, and the old primary comes back: first as it is, then rewound, as a standby.
func TestStandby(t *testing.T) {
	t.Parallel()
	primary := start(t, options(t, serverDir(t)))
	exec1(t, primary, `create table seen (what text)`)
	opts := options(t, serverDir(t))
	opts.Primary = primary
	standby := start(t, opts)
	if standby.Password() != primary.Password() {
		t.Error("the standby has another password than its primary")
	}
	exec1(t, primary, `insert into seen values ('before')`)
	eventually(t, "the standby has it", func() bool { return query1(t, standby, `select count(*) from seen`) == "1" })

	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if primary.PID() != 0 {
		t.Error("a killed server runs")
	}
	if err := standby.Promote(testContext(t)); err != nil {
		t.Fatal(err)
	}
	exec1(t, standby, `insert into seen values ('after')`)

	restart(t, primary)
	exec1(t, primary, `insert into seen values ('astray')`)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	exec1(t, standby, `checkpoint`)
	if err := primary.Rewind(testContext(t), standby); err != nil {
		t.Fatal(err)
	}
	restart(t, primary)
	exec1(t, standby, `insert into seen values ('at last')`)
	eventually(t, "the old primary follows the new one", func() bool {
		return query1(t, primary, `select string_agg(what, ' ' order by what) from seen`) == "after at last before"
	})
}

func restart(t *testing.T, p *local.Postgres) {
	t.Helper()
	if err := p.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
}
