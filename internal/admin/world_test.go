package admin_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"go.uber.org/goleak"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a cluster of two shards in memory, s1 with the slots 0 to 2047. bob lives on s2, alice on s1.
type world struct {
	mu      sync.Mutex
	changed chan struct{}
	view    *admin.View
	away    error // of the registry
	routers []admin.Process
	shards  map[ledger.ShardID]*book
	retried []ledger.Saga
	retry   func(ledger.Saga) (ledger.Saga, error)
	audit   admin.AuditStatus
	unsure  error // of a change of a move
}

// book is what a shard has.
type book struct {
	mu       sync.Mutex
	down     error
	users    map[ledger.UserID]ledger.User
	steps    []ledger.StepSight
	sagas    []ledger.SagaSight
	counters ledger.ShardCounters
	slots    func(ledger.Slot) string
	looks    chan chan struct{} // if set, a look at sagas sends what it waits for
}

var begun = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

func newWorld() *world {
	w := &world{changed: make(chan struct{}), shards: make(map[ledger.ShardID]*book)}
	owners := make(map[ledger.Slot]placement.Owner)
	for slot := range ledger.Slot(placement.Slots) {
		owners[slot] = placement.Owner{Shard: []ledger.ShardID{"s1", "s2"}[slot/2048], Epoch: 1}
	}
	owned, err := placement.NewMap(7, owners)
	if err != nil {
		panic(err)
	}
	w.view = &admin.View{UID: "c0ffee00-1111-2222-3333-444455556666", CreatedAt: begun, InitialShards: 2, Revision: 7, Map: owned, Connected: true, Contact: begun}
	for i, id := range []ledger.ShardID{"s1", "s2"} {
		w.view.Shards = append(w.view.Shards, admin.RegisteredShard{ID: id, DSN: "postgres://saldo@" + string(id) + "/saldo", Weight: 1, RegisteredAt: begun, Timeline: 1})
		w.shards[id] = &book{users: make(map[ledger.UserID]ledger.User), slots: func(slot ledger.Slot) string {
			if int(slot/2048) == i {
				return "owned"
			}
			return ""
		}}
	}
	w.shards["s1"].users["alice"] = ledger.User{ID: "alice", Name: "Alice", CreatedAt: begun, UpdatedAt: begun,
		Holdings: []ledger.Holding{{Currency: "USD", Account: ledger.Account{Balance: 75, Version: 2}}}}
	w.shards["s2"].users["bob"] = ledger.User{ID: "bob", Name: "Bob", Email: "bob@example.com", CreatedAt: begun, UpdatedAt: begun}
	return w
}

// change changes the registry, and tells.
func (w *world) change(change func(*admin.View)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.view
	next.Shards, next.Moves = slices.Clone(next.Shards), slices.Clone(next.Moves)
	next.Revision++
	change(&next)
	w.view = &next
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) View() *admin.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

func (w *world) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *world) Leaders(context.Context) (map[string]string, error) {
	return map[string]string{"rebalancer": "c1", "sagas.s1": "c1", "sagas.s2": "c2"}, w.away
}

func (w *world) Routers(context.Context) ([]admin.Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.routers, w.away
}

func (w *world) Coordinators(context.Context) ([]admin.Process, error) {
	return []admin.Process{{Name: "c1", Address: "127.0.0.1:8081", Version: "test", StartedAt: begun}}, w.away
}

func (w *world) PauseMove(_ context.Context, id placement.MoveID, paused bool) (placement.Move, error) {
	move := w.View().Moves[0]
	if w.unsure != nil {
		return move, w.unsure
	}
	if move.Phase.Ended() {
		return move, errors.New("it has ended")
	}
	w.change(func(v *admin.View) { v.Moves[0].Paused = paused; v.Moves[0].Revision++ })
	return w.View().Moves[0], nil
}

func (w *world) AbortMove(_ context.Context, id placement.MoveID, why string) (placement.Move, error) {
	w.change(func(v *admin.View) {
		v.Moves[0].Phase, v.Moves[0].Cause = placement.PhaseAborted, why
		v.Moves[0].Revision++
	})
	return w.View().Moves[0], nil
}

func (w *world) Shard(id ledger.ShardID) (admin.Shard, bool) {
	b, ok := w.shards[id]
	return b, ok
}

func (w *world) Standing(_ context.Context, id ledger.ShardID) (admin.Standing, error) {
	if err := w.shards[id].failure(); err != nil {
		return admin.Standing{}, err
	}
	return admin.Standing{Timeline: 1, Adopted: 1, LSN: "0/1", Followers: []admin.Follower{{Name: "a", State: "streaming", Sync: "quorum"}}}, nil
}

func (w *world) Retry(_ context.Context, saga ledger.Saga) (ledger.Saga, error) {
	w.retried = append(w.retried, saga)
	return w.retry(saga)
}

func (w *world) Status() admin.AuditStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.audit
}

func (b *book) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.down
}

func (b *book) setDown(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = err
}

func (b *book) sight(slot ledger.Slot) ledger.SlotSight {
	s := ledger.SlotSight{Slot: slot, State: b.slots(slot)}
	if s.State != "" {
		s.Epoch = 1
	}
	return s
}

func (b *book) SeeUser(_ context.Context, id ledger.UserID) (ledger.UserSight, error) {
	sight := ledger.UserSight{Slot: b.sight(placement.SlotOf(id))}
	if user, ok := b.users[id]; ok {
		sight.User = &user
	}
	return sight, b.failure()
}

func (b *book) SeeTransfer(_ context.Context, id ledger.Identity, slots ...ledger.Slot) (sight ledger.TransferSight, err error) {
	slots = append(slots, placement.SlotOf(id.Initiator))
	for _, slot := range slots {
		sight.Slots = append(sight.Slots, b.sight(slot))
	}
	for _, step := range b.steps {
		if step.Identity == id && slices.Contains(slots, step.Slot) {
			sight.Steps = append(sight.Steps, step)
		}
	}
	for _, saga := range b.sagas {
		if saga.Identity == id {
			sight.Saga = &saga
		}
	}
	return sight, b.failure()
}

func (b *book) SeeStarts(_ context.Context, id ledger.TxID) (starts []ledger.StepSight, err error) {
	for _, step := range b.steps {
		if step.TxID == id && step.Step == ledger.StepStart {
			starts = append(starts, step)
		}
	}
	return starts, b.failure()
}

func (b *book) SeeSagas(_ context.Context, q ledger.SagaQuery) ([]ledger.SagaSight, error) {
	if b.looks != nil {
		done := make(chan struct{})
		b.looks <- done
		<-done
	}
	var found []ledger.SagaSight
	order := func(a, b ledger.SagaSight) int {
		order := cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Initiator, b.Initiator), cmp.Compare(a.TxID, b.TxID))
		if q.State != ledger.SagaPending {
			return -order
		}
		return order
	}
	for _, saga := range b.sagas {
		if saga.State == q.State && time.Since(saga.CreatedAt) >= q.OlderThan && (q.After == nil || order(saga, *q.After) > 0) {
			found = append(found, saga)
		}
	}
	slices.SortFunc(found, order)
	return found[:min(len(found), q.Limit)], b.failure()
}

func (b *book) UsersLike(_ context.Context, prefix string, limit int) (ids []string, err error) {
	for id := range b.users {
		if strings.HasPrefix(string(id), prefix) {
			ids = append(ids, string(id))
		}
	}
	return ids, b.failure()
}

func (b *book) TransfersLike(_ context.Context, prefix string, limit int) (ids []string, err error) {
	for _, step := range b.steps {
		if strings.HasPrefix(string(step.TxID), prefix) {
			ids = append(ids, string(step.TxID))
		}
	}
	return ids, b.failure()
}

func (b *book) SeeHistory(_ context.Context, user ledger.UserID, currency ledger.Currency, _ int64, _ int) (ledger.HistoryPage, error) {
	line := ledger.HistoryLine{CreatedAt: begun, Entry: ledger.Entry{
		AccountKey: ledger.AccountKey{User: user, Currency: currency}, Version: 2, Amount: -25, Balance: 75,
		Identity: ledger.Identity{Initiator: user, TxID: "t1"}, Step: ledger.StepStart, Kind: ledger.KindTransfer, Counterparty: "bob",
	}}
	return ledger.HistoryPage{Total: 2, Lines: []ledger.HistoryLine{line}}, b.failure()
}

func (b *book) Counters(context.Context) (ledger.ShardCounters, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counters, b.down
}

func (b *book) MoveProgress(context.Context, placement.MoveID) (rebalance.Progress, error) {
	return rebalance.Progress{Rows: 10, Expected: 100}, b.failure()
}

// saga puts a transfer of alice's to bob where its steps are, as far as state says it has come.
func (w *world) saga(txID ledger.TxID, at time.Time, state ledger.SagaState) ledger.SagaSight {
	s := ledger.SagaSight{CreatedAt: at}
	s.Transfer = ledger.Transfer{Identity: ledger.Identity{Initiator: "alice", TxID: txID}, Kind: ledger.KindTransfer, Payee: "bob", Amount: 25, Currency: "USD"}
	s.State, s.Trace = state, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	step := func(step ledger.Step, slot ledger.Slot, after time.Duration, reason ledger.Reason) ledger.StepSight {
		sight := ledger.StepSight{Slot: slot, CreatedAt: at.Add(after)}
		sight.Transfer, sight.Step, sight.Saga, sight.Reason = s.Transfer, step, step == ledger.StepStart, reason
		if reason == ledger.Applied {
			sight.Balance, sight.Version = 75, 2
		}
		return sight
	}
	home, payee := placement.SlotOf("alice"), placement.SlotOf("bob")
	w.shards["s1"].steps = append(w.shards["s1"].steps, step(ledger.StepStart, home, 0, ledger.Applied))
	if state != ledger.SagaPending {
		s.EndedAt = at.Add(3 * time.Millisecond)
	}
	switch state {
	case ledger.SagaCompleted:
		w.shards["s2"].steps = append(w.shards["s2"].steps, step(ledger.StepCredit, payee, time.Millisecond, ledger.Applied))
	case ledger.SagaRefunded:
		s.Cause = ledger.BalanceLimit
		w.shards["s2"].steps = append(w.shards["s2"].steps, step(ledger.StepCredit, payee, time.Millisecond, ledger.BalanceLimit))
		w.shards["s1"].steps = append(w.shards["s1"].steps, step(ledger.StepRefund, home, 2*time.Millisecond, ledger.Applied))
	}
	w.shards["s1"].sagas = append(w.shards["s1"].sagas, s)
	return s
}

// env is the face over a world, served.
type env struct {
	*testing.T
	world  *world
	server *httptest.Server
	log    *lockedBuffer
	token  string // that get and post say
	stop   func() // what runs beside the face
}

func newEnv(t *testing.T, change ...func(*admin.Config)) *env {
	t.Helper()
	t.Parallel()
	e := &env{T: t, world: newWorld(), log: new(lockedBuffer)}
	config := admin.Config{
		Registry: e.world, Shards: e.world, Sagas: e.world, Loopback: true, Name: "c1", Version: "test", Log: slog.New(slog.NewTextHandler(e.log, nil)),
		Sample: 20 * time.Millisecond, Look: 20 * time.Millisecond, Heartbeat: 50 * time.Millisecond, Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	for _, f := range change {
		f(&config)
	}
	face := admin.New(config)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { face.Run(ctx) })
	e.server, e.stop = httptest.NewServer(face), cancel
	t.Cleanup(func() {
		cancel()
		running.Wait()
		e.server.Close()
	})
	return e
}

// answer is a response, checked against the document.
type answer struct {
	*testing.T
	status int
	header http.Header
	body   []byte
}

func (e *env) do(method, path, body string, header ...string) answer {
	e.Helper()
	request, err := http.NewRequest(method, e.server.URL+path, strings.NewReader(body))
	if err != nil {
		e.Fatal(err)
	}
	if e.token != "" {
		request.Header.Set("Authorization", "Bearer "+e.token)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			request.Host = header[i+1]
		}
		request.Header.Set(header[i], header[i+1])
	}
	response, err := e.server.Client().Do(request)
	if err != nil {
		e.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		e.Fatal(err)
	}
	if err := document().check(response, content); err != nil {
		e.Errorf("openapi.yaml does not allow the answer of %s %s: %v", method, path, err)
	}
	return answer{T: e.T, status: response.StatusCode, header: response.Header, body: content}
}

func (e *env) get(path string, header ...string) answer {
	e.Helper()
	return e.do("GET", admin.Prefix+path, "", header...)
}

func (e *env) post(path, body string, header ...string) answer {
	e.Helper()
	return e.do("POST", admin.Prefix+path, body, append([]string{"Content-Type", "application/json"}, header...)...)
}

// read reads an answer that must be good.
func read[T any](a answer) (into T) {
	a.Helper()
	if a.status != http.StatusOK {
		a.Fatalf("answered %d: %s", a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &into); err != nil {
		a.Fatalf("%v: %s", err, a.body)
	}
	return into
}

// refused reads an answer that must be an error.
func (a answer) refused(status int, code string) admin.Error {
	a.Helper()
	var got admin.Error
	if err := json.Unmarshal(a.body, &got); err != nil {
		a.Fatalf("%v: %s", err, a.body)
	}
	if a.status != status || got.Code != code || got.StatusCode != status || got.Message == "" || len(got.TraceID) != 32 {
		a.Errorf("answered %d %+v, want %d %s", a.status, got, status, code)
	}
	return got
}

// checker checks responses against openapi.yaml, in which it allows no fields that are not named.
type checker struct {
	doc    *openapi3.T
	router routers.Router
}

var document = sync.OnceValue(func() *checker {
	doc, err := openapi3.NewLoader().LoadFromData(admin.OpenAPI())
	if err == nil {
		err = doc.Validate(context.Background())
	}
	if err != nil {
		panic(fmt.Sprint("openapi.yaml: ", err))
	}
	for _, schema := range doc.Components.Schemas {
		closeObjects(schema.Value)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	return &checker{doc, router}
})

func closeObjects(schema *openapi3.Schema) {
	if schema.Type != nil && schema.Type.Includes("object") {
		schema.AdditionalProperties.Has = new(false)
	}
	if schema.Items != nil && schema.Items.Ref == "" {
		closeObjects(schema.Items.Value)
	}
	for _, property := range schema.Properties {
		if property.Ref == "" {
			closeObjects(property.Value)
		}
	}
}

// operations returns method and path of every operation, as in "GET /users/{id}".
func (c *checker) operations() (all []string) {
	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			all = append(all, method+" "+path)
		}
	}
	slices.Sort(all)
	return all
}

func (c *checker) check(response *http.Response, body []byte) error {
	if response.StatusCode == http.StatusOK && response.Header.Get("Content-Type") == "application/yaml" {
		return nil // kin-openapi would take the document for its contents
	}
	route, params, err := c.router.FindRoute(response.Request)
	if err != nil { // no route: an error, as everywhere
		route = &routers.Route{Spec: c.doc, Operation: c.doc.Paths.Find("/cluster").Get}
	}
	return openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: response.Request, Route: route, PathParams: params},
		Status:                 response.StatusCode, Header: response.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
}

// lockedBuffer is a log that a test can read.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
