package admin

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// SagaList is a page of sagas.
type SagaList struct {
	Sagas      []SagaInfo   `json:"sagas"`      // pending ones from the oldest on, ended ones from the latest back
	Next       string       `json:"next"`       // for the next page: after=…; "" at the end
	Unanswered []Unanswered `json:"unanswered"` // shards whose sagas are not in it
}

// SagaInfo is a transfer between shards.
type SagaInfo struct {
	Initiator  ledger.UserID   `json:"initiator"`
	TxID       ledger.TxID     `json:"tx_id"`
	Payee      ledger.UserID   `json:"payee"`
	Amount     ledger.Amount   `json:"amount"`
	Currency   ledger.Currency `json:"currency"`
	State      ledger.Status   `json:"state"`
	Cause      ledger.Reason   `json:"cause,omitempty"` // why it was refunded
	Home       ledger.ShardID  `json:"home"`            // where its state is kept: the initiator's shard
	PayeeShard ledger.ShardID  `json:"payee_shard"`
	CreatedAt  time.Time       `json:"created_at"`
	EndedAt    *time.Time      `json:"ended_at"`
	Seconds    float64         `json:"seconds"` // until it ended, or until now
	TraceID    string          `json:"trace_id,omitempty"`
}

func sagaInfo(view *View, home ledger.ShardID, s ledger.SagaSight) SagaInfo {
	info := SagaInfo{
		Initiator: s.Initiator, TxID: s.TxID, Payee: s.Payee, Amount: s.Amount, Currency: s.Currency,
		State: s.State.Status(), Cause: s.Cause, Home: home, PayeeShard: view.Map.OwnerOf(s.Payee).Shard,
		CreatedAt: s.CreatedAt.UTC(), EndedAt: optional(s.EndedAt), TraceID: traceOf(s.Trace),
	}
	until := s.EndedAt
	if until.IsZero() {
		until = time.Now()
	}
	info.Seconds = max(until.Sub(s.CreatedAt).Seconds(), 0)
	return info
}

// traceOf is the trace id of a W3C traceparent.
func traceOf(parent string) string {
	if parts := strings.Split(parent, "-"); len(parts) == 4 {
		return parts[1]
	}
	return ""
}

const (
	sagaLimit    = 50
	maxSagaLimit = 500
)

var sagaStates = map[string]ledger.SagaState{
	"": ledger.SagaPending, "pending": ledger.SagaPending, "completed": ledger.SagaCompleted, "refunded": ledger.SagaRefunded,
}

func (f *Face) listSagas(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	state, ok := sagaStates[strings.ToLower(r.query("state"))]
	if !ok {
		return nil, malformed(`parameter "state" is pending, completed or refunded`)
	}
	q := ledger.SagaQuery{State: state, Limit: sagaLimit}
	if text := r.query("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > maxSagaLimit {
			return nil, malformed(`parameter "limit" is 1 to %d`, maxSagaLimit)
		}
	}
	if text := r.query("older_than"); text != "" {
		if q.OlderThan, err = time.ParseDuration(text); err != nil || q.OlderThan < 0 {
			return nil, malformed(`parameter "older_than" is a duration, as in 90s, 5m or 1h30m`)
		}
	}
	if q.After, err = parseSagaCursor(r.query("after"), state); err != nil {
		return nil, err
	}
	ids := shardIDs(view)
	if text := r.query("shard"); text != "" {
		if !knows(view, ledger.ShardID(text)) {
			return nil, f.noShard(view, text)
		}
		ids = []ledger.ShardID{ledger.ShardID(text)}
	}
	if state != ledger.SagaPending {
		if !f.searching.TryLock() {
			return nil, refusal(codeUnavailable, "ended sagas are being looked for already, which reads all there are: "+
				"try again in %d seconds, or ask another coordinator", int(searchTime.Seconds()))
		}
		defer f.searching.Unlock()
	}
	return f.sagaPage(r, view, ids, q), nil
}

// placed is a saga and the shard that has it.
type placed struct {
	ledger.SagaSight
	home ledger.ShardID
}

// sagaPage merges what the shards have.
func (f *Face) sagaPage(ctx context.Context, view *View, ids []ledger.ShardID, q ledger.SagaQuery) SagaList {
	more := q
	more.Limit++ // so that the last page is known to be the last
	limit := questionTime
	if q.State != ledger.SagaPending {
		limit = searchTime
	}
	found, unanswered := askAll(ctx, f, limit, ids, func(ctx context.Context, s Shard) ([]ledger.SagaSight, error) {
		return s.SeeSagas(ctx, more)
	})
	var all []placed
	for home, sagas := range found {
		for _, s := range sagas {
			all = append(all, placed{s, home})
		}
	}
	slices.SortFunc(all, func(a, b placed) int {
		order := cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Initiator, b.Initiator), cmp.Compare(a.TxID, b.TxID))
		if q.State != ledger.SagaPending {
			order = -order
		}
		return order
	})
	// One whose slot moves just now may be seen twice.
	all = slices.CompactFunc(all, func(a, b placed) bool { return a.Identity == b.Identity })
	list := SagaList{Sagas: []SagaInfo{}, Unanswered: unanswered}
	if len(all) > q.Limit {
		all = all[:q.Limit]
		list.Next = sagaCursor(all[len(all)-1].SagaSight)
	}
	for _, s := range all {
		list.Sagas = append(list.Sagas, sagaInfo(view, s.home, s.SagaSight))
	}
	return list
}

// cursor is a place in a list of sagas, as text that only this package reads.
type cursor struct {
	State     ledger.SagaState `json:"s"`
	CreatedAt time.Time        `json:"c"`
	Initiator ledger.UserID    `json:"i"`
	TxID      ledger.TxID      `json:"t"`
}

func sagaCursor(s ledger.SagaSight) string {
	content, _ := json.Marshal(cursor{s.State, s.CreatedAt.UTC(), s.Initiator, s.TxID}) // which cannot fail
	return base64.RawURLEncoding.EncodeToString(content)
}

func parseSagaCursor(text string, state ledger.SagaState) (*ledger.SagaSight, error) {
	if text == "" {
		return nil, nil
	}
	var c cursor
	content, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(content, &c)
	}
	if err != nil || c.State != state {
		return nil, malformed(`parameter "after" is the "next" of a list with the same state`)
	}
	s := &ledger.SagaSight{CreatedAt: c.CreatedAt}
	s.Initiator, s.TxID = c.Initiator, c.TxID
	return s, nil
}

// Saga is a saga with its way.
type Saga struct {
	SagaInfo
	Steps      []StepInfo   `json:"steps"`
	Unanswered []Unanswered `json:"unanswered"`
}

func (f *Face) saga(r *request) (any, error) {
	view, way, err := f.sagaWay(r)
	if err != nil {
		return nil, err
	}
	return Saga{
		SagaInfo: sagaInfo(view, way.home, *way.saga), Steps: way.transfer.Steps, Unanswered: way.transfer.Unanswered,
	}, nil
}

// sagaWay finds the saga that a path names.
func (f *Face) sagaWay(r *request) (*View, *way, error) {
	view, err := f.view()
	if err != nil {
		return nil, nil, err
	}
	id, err := identity(r.path("initiator"), r.path("tx_id"))
	if err != nil {
		return nil, nil, err
	}
	way, err := f.way(r, view, id)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case way.saga == nil && way.transfer.Saga:
		return nil, nil, onlyCopied(view, id)
	case way.saga == nil:
		return nil, nil, refusal(codeSagaNotFound,
			"%v is no transfer between shards: all of it was done on shard %s at once (saldo transfer show %v)", id, way.home, id)
	}
	return view, way, nil
}

// onlyCopied refuses what may be done by the home's own record alone.
func onlyCopied(view *View, id ledger.Identity) error {
	return refusal(codeUnavailable, "only a copy of it is known: its home, shard %s, does not answer or does not have it",
		view.Map.OwnerOf(id.Initiator).Shard)
}

// SagaRetry is what came of trying a saga at once.
type SagaRetry struct {
	SagaInfo
	// Tried is false if the saga had ended before, so that nothing was done.
	Tried bool `json:"tried"`
	// Problem is why the latest step had no answer; "" if the saga has ended.
	Problem string `json:"problem,omitempty"`
}

func (f *Face) retrySaga(r *request) (any, error) {
	if err := r.body(&struct{}{}); err != nil {
		return nil, err
	}
	view, way, err := f.sagaWay(r)
	if err != nil {
		return nil, err
	}
	if !way.owned {
		return nil, onlyCopied(view, way.saga.Identity)
	}
	if way.saga.State != ledger.SagaPending {
		return SagaRetry{SagaInfo: sagaInfo(view, way.home, *way.saga)}, nil
	}
	trying, cancel := context.WithTimeout(r, retryTime)
	defer cancel()
	end, problem := f.Sagas.Retry(trying, way.saga.Saga)
	now := *way.saga
	now.Saga = end
	retry := SagaRetry{Tried: true}
	if end.State != ledger.SagaPending {
		now.EndedAt = time.Now() // about: whoever asks again is told by the shard
	} else if problem != nil {
		retry.Problem = said(problem)
	} else {
		retry.Problem = "no step had an answer in time"
	}
	retry.SagaInfo = sagaInfo(view, way.home, now)
	f.Log.InfoContext(r, "an operator has had a saga tried",
		"initiator", end.Initiator, "tx_id", end.TxID, "state", retry.State, "problem", problem)
	return retry, nil
}
