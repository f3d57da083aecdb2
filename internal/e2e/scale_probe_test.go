package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// probe is a client that pays something in, again and again.
type probe struct {
	user    string
	samples []sample
}

// sample is one request of a probe. An answer is one that acknowledges.
type sample struct{ sent, answered time.Time }

// run sends requests until ctx ends. They are judged like all others.
func (p *probe) run(ctx context.Context, l *load, n int, pause time.Duration) {
	for i := 0; ctx.Err() == nil; i++ {
		id := identity{p.user, fmt.Sprintf("p%d-%d", n, i)}
		a := l.write((n+i)%l.routers, id, contents{kind: "add", amount: 1, currency: "USD"}, false, false)
		if a.class == ok {
			p.samples = append(p.samples, sample{l.begun.Add(a.invoke), l.begun.Add(a.ret)})
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// gap is the longest time in which the probe was not answered, around a moment.
func (p *probe) gap(at time.Time) (longest time.Duration, seen bool) {
	const around = 2500 * time.Millisecond
	for i := 1; i < len(p.samples); i++ {
		from, to := p.samples[i-1].answered, p.samples[i].answered
		if to.Before(at.Add(-around)) || from.After(at.Add(around)) {
			continue
		}
		longest, seen = max(longest, to.Sub(from)), true
	}
	return longest, seen
}

// scaleReport is what moving costs those who pay meanwhile.
type scaleReport struct {
	Moves         int           `json:"moves"`
	Slots         int           `json:"slots"`
	Rows          int64         `json:"rows"`
	RowsPerSecond float64       `json:"rows_per_second"`         // of a move, from its plan to the change of owner
	Pause         distribution  `json:"write_pause_ms"`          // of a client whose slot moves: its longest time without an answer
	Fence         distribution  `json:"fence_ms"`                // as the movers measured it
	RestingFew    distribution  `json:"latency_resting_on_2_ms"` // of requests while nothing moves
	RestingMany   distribution  `json:"latency_resting_on_5_ms"`
	Moving        distribution  `json:"latency_moving_ms"` // of requests while slots move, anybody's
	Requests      int64         `json:"requests"`
	Errors        int64         `json:"errors"`
	Load          string        `json:"load_average"`
	Took          time.Duration `json:"-"`
}

// distribution of milliseconds.
type distribution struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func distributionOf(values []time.Duration) (d distribution) {
	if len(values) == 0 {
		return d
	}
	slices.Sort(values)
	at := func(q float64) float64 {
		return float64(values[min(int(q*float64(len(values))), len(values)-1)].Microseconds()) / 1000
	}
	return distribution{N: len(values), P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// report sums up a run whose probes have ended.
func (c *scaled) report(t *testing.T, l *load, probes []*probe) scaleReport {
	t.Helper()
	var (
		r              scaleReport
		pauses, fences []time.Duration
		copying        time.Duration
		busy           [][2]time.Time // while something moves
	)
	of := make(map[ledger.Slot]*probe)
	for _, p := range probes {
		of[placement.SlotOf(ledger.UserID(p.user))] = p
	}
	for _, move := range c.view(t).Moves {
		if move.Phase != placement.PhaseDone {
			continue
		}
		r.Moves++
		r.Slots += len(move.Slots)
		fences = append(fences, time.Duration(move.FenceMillis)*time.Millisecond)
		busy = append(busy, [2]time.Time{move.CreatedAt, *move.EndedAt})
		copying += move.DecidedAt.Sub(move.CreatedAt)
		r.Rows += sql[int64](t, c.cluster, c.number(move.Target),
			`select coalesce(sum(rows), 0)::bigint from saldo.moves where move_id = $1`, string(move.ID))
		for _, slot := range move.Slots {
			if p := of[slot]; p != nil {
				if gap, ok := p.gap(*move.DecidedAt); ok {
					pauses = append(pauses, gap)
				}
			}
		}
	}
	if copying > 0 {
		r.RowsPerSecond = float64(r.Rows) / copying.Seconds()
	}
	moves := func(s sample) bool {
		return slices.ContainsFunc(busy, func(b [2]time.Time) bool { return s.answered.After(b[0]) && s.sent.Before(b[1]) })
	}
	var few, many, moving []time.Duration
	for _, p := range probes {
		for _, s := range p.samples {
			took, begun := s.answered.Sub(s.sent), 0
			for _, b := range busy {
				if b[0].Before(s.sent) {
					begun++
				}
			}
			switch {
			case moves(s):
				moving = append(moving, took)
			case begun == 0 || begun == len(busy):
				few = append(few, took)
			default:
				many = append(many, took)
			}
		}
	}
	r.Pause, r.Fence = distributionOf(pauses), distributionOf(fences)
	r.RestingFew, r.RestingMany, r.Moving = distributionOf(few), distributionOf(many), distributionOf(moving)
	for _, a := range l.history().attempts {
		r.Requests++
		if a.class == none || a.class == unknown || a.class == broken {
			r.Errors++
		}
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	return r
}

// String is a table for a handbook.
func (r scaleReport) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d moves of %d slots in all, %d rows, %.0f rows a second; %d requests, %d errors; load average %s\n\n",
		r.Moves, r.Slots, r.Rows, r.RowsPerSecond, r.Requests, r.Errors, r.Load)
	fmt.Fprintf(&text, "| milliseconds | p50 | p99 | max | of |\n|---|---|---|---|---|\n")
	for _, row := range []struct {
		name string
		distribution
		of string
	}{
		{"a client whose slot moves is not answered for (its own rest of 50 ms in it)", r.Pause, "clients' moves"},
		{"of that, the slots are fenced", r.Fence, "moves"},
		{"any client's request, while nothing moves, on 2 shards", r.RestingFew, "requests"},
		{"any client's request, while nothing moves, on 5 shards", r.RestingMany, "requests"},
		{"any client's request, while slots move", r.Moving, "requests"},
	} {
		fmt.Fprintf(&text, "| %s | %.1f | %.1f | %.0f | %d %s |\n", row.name, row.P50, row.P99, row.Max, row.N, row.of)
	}
	return text.String()
}

// publish prints the report, and writes it as JSON where SALDO_SCALE_REPORT says.
func (r scaleReport) publish(t *testing.T) {
	t.Helper()
	t.Logf("\n%v", r)
	path := os.Getenv("SALDO_SCALE_REPORT")
	if path == "" {
		return
	}
	content, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(content, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// wantNoErrors checks that every client was told what became of its request; where slots were fenced for too long it may have
// been refused because of that.
func (l *load) wantNoErrors(t *testing.T, fencedTooLong bool) {
	t.Helper()
	shown := 0
	attempts := l.history().attempts
	slices.SortFunc(attempts, func(x, y *attempt) int { return cmp.Compare(x.invoke, y.invoke) })
	for _, a := range attempts {
		if fencedTooLong && a.class == none && strings.Contains(a.what, isMoving) {
			continue
		}
		if a.class == none || a.class == unknown || a.class == broken {
			if shown++; shown <= 10 {
				t.Errorf("a client meets an error: %v", a)
			}
		}
	}
	if shown > 10 {
		t.Errorf("and %d more", shown-10)
	}
}

// preload gives users a past, by batches of transfers.
func (c *scaled) preload(t *testing.T, l *load, users []string, transfers int) {
	t.Helper()
	begun := time.Now()
	for n := 0; n < transfers; n += 1000 {
		var body strings.Builder
		body.WriteString(`{"transfers":[`)
		for i := range 1000 {
			from, to := users[(n+i)%len(users)], users[(n+i*31+7)%len(users)]
			if from == to {
				to = users[(n+i+1)%len(users)]
			}
			if i > 0 {
				body.WriteByte(',')
			}
			id := identity{from, fmt.Sprintf("past-%d", n+i)}
			body.WriteString(transferBody(from, to, 1, id.txID))
			l.opening[id] = true
		}
		body.WriteString(`]}`)
		got := c.face(t, n/1000%2).post("/transfers/batch", body.String())
		if got.StatusCode != http.StatusOK && got.StatusCode != http.StatusMultiStatus {
			t.Fatalf("a batch is answered %d %s", got.StatusCode, got.Text[:min(len(got.Text), 500)])
		}
	}
	if transfers > 0 {
		c.say(t, "%d transfers are in the books after %v", transfers, time.Since(begun).Round(time.Second))
	}
}
