package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// listener reads a stream of events.
type listener struct {
	*env
	lines    *bufio.Scanner
	response *http.Response
	last     string // id
	beats    int    // comments
	beat     func() // after each; may be nil
}

func (e *env) listen(last string) *listener {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), 2*time.Minute)
	e.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.server.URL+admin.Prefix+"/events", nil)
	if err != nil {
		e.Fatal(err)
	}
	if e.token != "" {
		request.Header.Set("Authorization", "Bearer "+e.token)
	}
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	response, err := e.server.Client().Do(request)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		e.Fatalf("%s %v", response.Status, response.Header)
	}
	return &listener{env: e, lines: bufio.NewScanner(response.Body), response: response}
}

// next reads the next event; false at the end of the stream.
func (l *listener) next() (e admin.Event, ok bool) {
	l.Helper()
	name := ""
	for l.lines.Scan() {
		field, value, _ := strings.Cut(l.lines.Text(), ": ")
		switch field {
		case "":
			if value != "" {
				if l.beats++; l.beat != nil {
					l.beat()
				}
			}
		case "id":
			l.last = value
		case "event":
			name = value
		case "data":
			if err := document().doc.Components.Schemas["Event"].Value.VisitJSON(decoded(l, value)); err != nil {
				l.Errorf("openapi.yaml does not allow the event %s: %v", value, err)
			}
			if err := json.Unmarshal([]byte(value), &e); err != nil || string(e.Type) != name {
				l.Fatalf("%v: event %q: %s", err, name, value)
			}
			return e, true
		}
	}
	return e, false
}

func decoded(l *listener, text string) (value any) {
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		l.Fatalf("%v: %s", err, text)
	}
	return value
}

// hears waits for an event of a type and a change.
func (l *listener) hears(kind admin.EventType, change string) admin.Event {
	l.Helper()
	var heard []string
	for {
		e, ok := l.next()
		if !ok {
			l.Fatalf("the stream ended without %s %s, after %v", kind, change, heard)
		}
		if e.Type == kind && e.Change == change {
			return e
		}
		heard = append(heard, fmt.Sprint(e.Type, " ", e.Change))
	}
}

func TestEvents(t *testing.T) {
	e := newEnv(t, func(c *admin.Config) { c.OldSaga = time.Minute })
	l := e.listen("")
	l.hears(admin.EventStart, "")
	start := l.last
	move := placement.Move{ID: "m1", Source: "s1", Target: "s2", Slots: placement.NewSlotSet(7), Phase: placement.PhaseCopy, CreatedAt: begun, Revision: 1}
	e.world.change(func(v *admin.View) { v.Moves = append(v.Moves, move) })
	if got := l.hears(admin.EventMove, "added"); got.Move.ID != "m1" || got.Move.Phase != "copy" {
		t.Errorf("%+v", got.Move)
	}
	e.world.change(func(v *admin.View) { v.Moves[0].Phase, v.Moves[0].Revision = placement.PhaseFence, 2 })
	if got := l.hears(admin.EventMove, "changed"); got.Move.Phase != "fence" {
		t.Errorf("%+v", got.Move)
	}
	fence := l.last
	e.world.change(func(v *admin.View) {
		owners := map[ledger.Slot]placement.Owner{7: {Shard: "s2", Epoch: 2}}
		v.Map, _ = placement.NewMap(v.Revision, owners)
		v.Shards[1].Draining = true
		v.Connected = false
	})
	l.hears(admin.EventRegistry, "away")
	if got := l.hears(admin.EventShard, "changed"); got.Shard != "s2" || got.State != "draining" {
		t.Errorf("%+v", got)
	}
	l.hears(admin.EventMap, "")

	b := e.world.shards["s1"]
	b.mu.Lock()
	b.counters = ledger.ShardCounters{Pending: 3, OldestPending: time.Now().Add(-time.Hour)}
	b.mu.Unlock()
	if got := l.hears(admin.EventSagas, "stuck"); got.Shard != "s1" || got.Pending != 3 || got.Oldest < 3599 {
		t.Errorf("%+v", got)
	}
	b.mu.Lock()
	b.counters = ledger.ShardCounters{}
	b.mu.Unlock()
	l.hears(admin.EventSagas, "free")
	e.world.mu.Lock()
	e.world.routers = []admin.Process{{Name: "r1", StartedAt: begun}}
	e.world.mu.Unlock()
	if got := l.hears(admin.EventProcess, "came"); got.Kind != "router" || got.Process.Name != "r1" {
		t.Errorf("%+v", got)
	}
	last := l.last

	// Who comes again hears what came since.
	again := e.listen(fence)
	again.hears(admin.EventStart, "")
	if got, _ := again.next(); got.Type != admin.EventRegistry {
		t.Errorf("after the fence came %+v", got)
	}
	if got := again.hears(admin.EventProcess, "came"); again.last != last || got.Process == nil {
		t.Errorf("the last is %s, not %s", again.last, last)
	}
	e.listen(start).hears(admin.EventMove, "added")
	for _, strange := range []string{"another-3", "nonsense", last + "0"} {
		other := e.listen(strange)
		if got, _ := other.next(); got.Type != admin.EventReset {
			t.Errorf("after %q: %+v", strange, got)
		}
		other.hears(admin.EventStart, "")
	}
}

func TestEventsOfTheAudit(t *testing.T) {
	e := newEnv(t, func(c *admin.Config) { c.Auditor = c.Registry.(*world) })
	l := e.listen("")
	e.world.mu.Lock()
	e.world.audit = admin.AuditStatus{State: admin.AuditViolations, Violations: []admin.AuditViolation{{Check: "accounts", ID: "alice USD", Problem: "wrong"}}}
	e.world.mu.Unlock()
	if got := l.hears(admin.EventAudit, ""); got.Audit.State != admin.AuditViolations || got.Audit.Violations[0].ID != "alice USD" {
		t.Errorf("%+v", got.Audit)
	}
	if got := read[admin.AuditStatus](e.get("/audit")); got.State != admin.AuditViolations {
		t.Errorf("%+v", got)
	}
}

// A listener who falls behind what is kept is told so, and hears the rest.
func TestEventsThatWereMissed(t *testing.T) {
	e := newEnv(t)
	l := e.listen("")
	l.hears(admin.EventStart, "")
	first := l.last
	for i := range admin.JournalSize + 10 {
		e.world.change(func(v *admin.View) { v.Shards[0].Weight = i + 2 })
		time.Sleep(50 * time.Microsecond) // the journal's keeper may take several changes for one
	}
	for weight := 0; weight != admin.JournalSize+11; {
		got, ok := l.next()
		if !ok {
			t.Fatal("the stream has ended")
		}
		weight = got.Weight
	}
	for i := 0; i < admin.JournalSize+10; i++ { // so that there are certainly so many
		e.world.change(func(v *admin.View) { v.Shards[0].Weight = i%2 + 1 })
		l.hears(admin.EventShard, "changed")
	}
	late := e.listen(first)
	late.hears(admin.EventStart, "")
	late.hears(admin.EventReset, "")
	late.hears(admin.EventShard, "changed")
}

func TestStreamsAreBounded(t *testing.T) {
	e := newEnv(t)
	for range admin.MaxStreams {
		e.listen("").hears(admin.EventStart, "")
	}
	e.get("/events").refused(503, "too_many_streams")
}

// Where nothing happens the stream says so, and it ends with the process.
func TestStreamsBeatAndEnd(t *testing.T) {
	e := newEnv(t)
	l := e.listen("")
	l.hears(admin.EventStart, "")
	l.beat = func() {
		if l.beats == 2 {
			e.stop()
		}
	}
	if got, ok := l.next(); ok {
		t.Errorf("%+v", got)
	}
	if l.beats < 2 {
		t.Errorf("%d beats", l.beats)
	}
	if err := l.lines.Err(); err != nil {
		t.Errorf("it has not ended well: %v", err)
	}
}

// Who may not ask any more does not go on listening, however much there is to tell.
func TestStreamsEndWithTheToken(t *testing.T) {
	var token atomic.Value
	token.Store("correct-horse-battery")
	e := newEnv(t, func(c *admin.Config) { c.Token = func() (string, error) { return token.Load().(string), nil } })
	e.token = "correct-horse-battery"
	l := e.listen("")
	l.hears(admin.EventStart, "")
	began := time.Now()
	time.AfterFunc(150*time.Millisecond, func() { token.Store("another-horse-battery") })
	stop := make(chan struct{})
	changing := make(chan struct{})
	go func() {
		defer close(changing)
		for weight := 2; ; weight++ {
			e.world.change(func(v *admin.View) { v.Shards[0].Weight = weight })
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	const long = time.Minute
	for ok := true; ok && time.Since(began) < long; {
		_, ok = l.next()
	}
	close(stop)
	<-changing
	if took := time.Since(began); took < 150*time.Millisecond || took >= long {
		t.Errorf("it has ended after %v", took)
	}
}
