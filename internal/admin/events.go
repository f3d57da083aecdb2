package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Event is a change that an operator may want to see. What it is about is in the field of that name.
type Event struct {
	Type   EventType `json:"type"`
	At     time.Time `json:"at"`
	Change string    `json:"change,omitempty"` // see EventType

	Revision int64          `json:"revision,omitempty"`
	Shard    ledger.ShardID `json:"shard,omitempty"`
	State    string         `json:"state,omitempty"`  // of a shard: active, draining
	Weight   int            `json:"weight,omitempty"` // of a shard
	Timeline int            `json:"timeline,omitempty"`
	Move     *MoveInfo      `json:"move,omitempty"`
	Process  *Process       `json:"process,omitempty"`
	Kind     string         `json:"kind,omitempty"`           // of a process: router, coordinator
	Pending  int64          `json:"pending_sagas,omitempty"`  // of a shard
	Oldest   float64        `json:"oldest_seconds,omitempty"` // of these
	Audit    *AuditStatus   `json:"audit,omitempty"`
	Message  string         `json:"message,omitempty"`
}

// EventType says what an event is about.
type EventType string

const (
	EventStart    EventType = "start"    // of a stream: from here on it tells what changes
	EventReset    EventType = "reset"    // something was missed: read anew what is shown, and go on listening
	EventRegistry EventType = "registry" // etcd: away, back, problem, well
	EventMap      EventType = "map"      // slots have other owners
	EventShard    EventType = "shard"    // added, changed, removed
	EventMove     EventType = "move"     // added, changed, forgotten
	EventSagas    EventType = "sagas"    // of a home: stuck (the oldest has waited for long), free (no longer)
	EventProcess  EventType = "process"  // came, went
	EventAudit    EventType = "audit"    // the audit's state, or the number of its violations, has changed
)

const (
	journalSize = 1024
	maxStreams  = 64
	writeTime   = 10 * time.Second // for a listener to take what there is
)

// journal is the latest changes, numbered. Every stream reads it at its own pace: nothing is kept for a listener, and one
// who falls behind is told so. A number is of use in this process alone, which its name in an id says.
type journal struct {
	name string

	mu      sync.Mutex // guards what follows
	events  []Event    // at most journalSize, oldest first
	next    int64      // number of the event to come; that of the first one is 1
	changed chan struct{}
	closed  bool
	streams int
}

func newJournal() *journal {
	return &journal{name: strings.ToLower(rand.Text()[:10]), next: 1, changed: make(chan struct{})}
}

func (j *journal) add(e Event) {
	e.At = time.Now().UTC()
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.events) == journalSize {
		j.events = slices.Delete(j.events, 0, 1)
	}
	j.events = append(j.events, e)
	j.next++
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	close(j.changed)
	j.changed = make(chan struct{})
}

// since returns the events from a number on, and the number of the one to come. lost: some of them are gone.
func (j *journal) since(from int64) (events []Event, next int64, lost, closed bool, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	oldest := j.next - int64(len(j.events))
	lost = from < oldest
	events = slices.Clone(j.events[min(max(from-oldest, 0), int64(len(j.events))):])
	return events, j.next, lost, j.closed, j.changed
}

func (j *journal) id(number int64) string { return fmt.Sprintf("%s-%d", j.name, number) }

// after returns the number of the event behind that of an id; false if the id is none of this journal's.
func (j *journal) after(id string) (number int64, ok bool) {
	name, text, _ := strings.Cut(id, "-")
	number, err := strconv.ParseInt(text, 10, 64)
	j.mu.Lock()
	defer j.mu.Unlock()
	return number + 1, err == nil && name == j.name && number >= 0 && number < j.next
}

// enter counts a stream, if there is room for it.
func (j *journal) enter() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.streams >= maxStreams {
		return false
	}
	j.streams++
	return true
}

func (j *journal) leave() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.streams--
}

func (j *journal) heard() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.streams > 0
}

// events streams the journal, by the rules of server-sent events.
func (f *Face) events(r *request) (any, error) {
	if !f.journal.enter() {
		return nil, refusal(codeTooManyStreams, "%d streams are open here: close one, or ask another coordinator", maxStreams)
	}
	defer f.journal.leave()
	header := r.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // for proxies that would wait for the end
	r.w.WriteHeader(http.StatusOK)
	if r.http.Method == http.MethodHead {
		return nil, nil
	}
	s := &stream{journal: f.journal, w: r.w, control: http.NewResponseController(r.w)}
	_ = s.control.SetReadDeadline(time.Time{}) // the server's is for requests; a writer without deadlines is a test's
	last := r.http.Header.Get("Last-Event-ID")
	_, next, _, _, _ := f.journal.since(0)
	if from, ok := f.journal.after(last); ok {
		next = from
	} else if last != "" {
		const message = "what came after that is not here: this coordinator was started anew, or is another one"
		s.tell(next-1, Event{Type: EventReset, Message: message})
	}
	s.tell(next-1, Event{Type: EventStart})
	heartbeat := time.NewTicker(f.Heartbeat) // however much happens: it is also when the token is looked at again
	defer heartbeat.Stop()
	for {
		events, upTo, lost, closed, changed := f.journal.since(next)
		if lost {
			s.tell(upTo-int64(len(events))-1, Event{Type: EventReset, Message: "too much has changed since"})
		}
		for i, e := range events {
			s.tell(upTo-int64(len(events)-i), e)
		}
		next = upTo
		if s.err != nil || closed {
			return nil, nil
		}
		select {
		case <-changed:
		case <-heartbeat.C:
			if f.admit(r.http) != nil {
				return nil, nil // who comes again is told why
			}
			s.write(": still here\n\n")
		case <-r.Done():
			return nil, nil
		}
	}
}

// stream writes events to one listener, until one write fails.
type stream struct {
	journal *journal
	w       http.ResponseWriter
	control *http.ResponseController
	err     error
}

func (s *stream) tell(number int64, e Event) {
	if e.At.IsZero() {
		e.At = time.Now().UTC()
	}
	content, err := json.Marshal(e)
	if err != nil {
		s.err = err
		return
	}
	s.write(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", s.journal.id(number), e.Type, content))
}

func (s *stream) write(text string) {
	if s.err != nil {
		return
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTime))
	if _, s.err = s.w.Write([]byte(text)); s.err == nil {
		s.err = s.control.Flush()
	}
}

// follow notes in the journal what changes: what the registry tells at once, the rest when it is looked at.
func (f *Face) follow(ctx context.Context) {
	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() { f.lookAround(ctx) })
	for last := f.Registry.View(); ; {
		changed := f.Registry.Changed()
		last = f.noteView(last)
		if changed == nil { // there is no registry yet
			timer := time.NewTimer(f.Look)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// seen is what was told last of what has to be looked at.
type seen struct {
	processes map[string]Process // by kind and name; nil: not looked at yet
	stuck     map[ledger.ShardID]bool
	audit     AuditStatus
}

// lookAround looks from time to time, which takes as long as the slowest shard.
func (f *Face) lookAround(ctx context.Context) {
	last := seen{stuck: make(map[ledger.ShardID]bool), audit: f.auditStatus()}
	look := time.NewTicker(f.Look)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		f.noteAudit(&last)
		if view := f.Registry.View(); view != nil && f.journal.heard() { // it costs a question to everybody
			f.noteProcesses(ctx, &last)
			f.noteSagas(ctx, view, &last)
		}
	}
}

// noteView notes what is different from before, and returns what there is now.
func (f *Face) noteView(before *View) *View {
	now := f.Registry.View()
	if now == nil || before == nil {
		return now
	}
	switch {
	case before.Connected && !now.Connected:
		const message = "etcd does not answer: payments go on, moves and joins wait"
		f.journal.add(Event{Type: EventRegistry, Change: "away", Message: message})
	case !before.Connected && now.Connected:
		f.journal.add(Event{Type: EventRegistry, Change: "back"})
	}
	switch {
	case now.Problem != "" && now.Problem != before.Problem:
		f.journal.add(Event{Type: EventRegistry, Change: "problem", Message: now.Problem})
	case now.Problem == "" && before.Problem != "":
		f.journal.add(Event{Type: EventRegistry, Change: "well"})
	}
	if now.Revision == before.Revision {
		return now
	}
	f.noteShards(before, now)
	f.noteMoves(before, now)
	if !slices.Equal(before.Map.Ranges(), now.Map.Ranges()) {
		f.journal.add(Event{Type: EventMap, Revision: now.Map.Revision()})
	}
	return now
}

func (f *Face) noteShards(before, now *View) {
	tell := func(s RegisteredShard, change string) {
		state := "active"
		if s.Draining {
			state = "draining"
		}
		f.journal.add(Event{
			Type: EventShard, Change: change, Shard: s.ID, State: state, Weight: s.Weight, Timeline: s.Timeline,
		})
	}
	compare(before.Shards, now.Shards, func(s RegisteredShard) ledger.ShardID { return s.ID },
		func(a, b RegisteredShard) bool { return a == b },
		func(change string, s RegisteredShard) { tell(s, change) })
}

func (f *Face) noteMoves(before, now *View) {
	compare(before.Moves, now.Moves, func(m placement.Move) placement.MoveID { return m.ID },
		func(a, b placement.Move) bool { return a.Revision == b.Revision },
		func(change string, m placement.Move) {
			if change == "removed" {
				change = "forgotten"
			}
			info := moveInfo(m)
			f.journal.add(Event{Type: EventMove, Change: change, Move: &info})
		})
}

// compare tells what was added to a list, changed in it or removed from it.
func compare[T any, K comparable](before, now []T, key func(T) K, same func(a, b T) bool, tell func(change string, one T)) {
	was := make(map[K]T, len(before))
	for _, one := range before {
		was[key(one)] = one
	}
	for _, one := range now {
		old, known := was[key(one)]
		delete(was, key(one))
		switch {
		case !known:
			tell("added", one)
		case !same(old, one):
			tell("changed", one)
		}
	}
	for _, one := range before {
		if _, gone := was[key(one)]; gone {
			tell("removed", one)
		}
	}
}

func (f *Face) noteAudit(last *seen) {
	status := f.auditStatus()
	if status.State != last.audit.State || len(status.Violations) != len(last.audit.Violations) {
		f.journal.add(Event{Type: EventAudit, Audit: &status})
	}
	last.audit = status
}

func (f *Face) noteProcesses(ctx context.Context, last *seen) {
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	now := make(map[string]Process)
	for kind, list := range map[string]func(context.Context) ([]Process, error){
		"router": f.Registry.Routers, "coordinator": f.Registry.Coordinators,
	} {
		processes, err := list(ctx)
		if err != nil {
			return // nobody knows
		}
		for _, p := range processes {
			now[kind+" "+p.Name] = p
		}
	}
	tell := func(change, key string, p Process) {
		kind, _, _ := strings.Cut(key, " ")
		f.journal.add(Event{Type: EventProcess, Change: change, Kind: kind, Process: &p})
	}
	if last.processes != nil {
		for key, p := range now {
			if before, known := last.processes[key]; !known || !before.StartedAt.Equal(p.StartedAt) {
				tell("came", key, p)
			}
		}
		for key, p := range last.processes {
			if _, there := now[key]; !there {
				tell("went", key, p)
			}
		}
	}
	last.processes = now
}

func (f *Face) noteSagas(ctx context.Context, view *View, last *seen) {
	counted := f.sampler.latest(ctx)
	for _, id := range shardIDs(view) {
		c := counted.of(id)
		if c.err != nil {
			continue // it is not known
		}
		age := time.Since(c.OldestPending)
		stuck := c.Pending > 0 && age > f.OldSaga
		if stuck == last.stuck[id] {
			continue
		}
		last.stuck[id] = stuck
		e := Event{Type: EventSagas, Change: "free", Shard: id, Pending: c.Pending}
		if stuck {
			e.Change, e.Oldest = "stuck", age.Seconds()
			e.Message = fmt.Sprintf("transfers from shard %s do not end: the oldest was begun %v ago (saldo saga list --shard %s)",
				id, age.Round(time.Second), id)
		}
		f.journal.add(e)
	}
}
