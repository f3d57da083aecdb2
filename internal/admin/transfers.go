package admin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// TransferList is the transfers of one tx_id, of whichever initiators.
type TransferList struct {
	Transfers  []Transfer   `json:"transfers"`
	More       bool         `json:"more"`       // there are more than are listed: ask for one by its initiator
	Unanswered []Unanswered `json:"unanswered"` // shards that might have more of them
}

// Transfer is a transfer and its way over the shards.
type Transfer struct {
	Initiator   ledger.UserID   `json:"initiator"`
	TxID        ledger.TxID     `json:"tx_id"`
	Kind        string          `json:"kind"` // add, withdraw, transfer
	Payee       ledger.UserID   `json:"payee,omitempty"`
	Amount      ledger.Amount   `json:"amount"`
	Currency    ledger.Currency `json:"currency"`
	Description string          `json:"description,omitempty"`
	Status      ledger.Status   `json:"status"`
	Reason      ledger.Reason   `json:"reason,omitempty"` // why it was refused or refunded
	Saga        bool            `json:"saga"`             // it goes, or went, between shards
	Home        ledger.ShardID  `json:"home"`             // of the initiator
	PayeeShard  ledger.ShardID  `json:"payee_shard,omitempty"`
	CreatedAt   time.Time       `json:"created_at"`
	EndedAt     *time.Time      `json:"ended_at"` // null while it is pending
	Seconds     float64         `json:"seconds"`  // until it ended, or until now
	TraceID     string          `json:"trace_id,omitempty"`
	Steps       []StepInfo      `json:"steps"`
	Unanswered  []Unanswered    `json:"unanswered"` // shards that might have more of it
}

// StepInfo is a station of a transfer's way. After the steps that move money comes the end of a saga, in its home.
type StepInfo struct {
	Step    string         `json:"step"` // start, credit, refund, end
	Shard   ledger.ShardID `json:"shard"`
	Slot    ledger.Slot    `json:"slot"`
	User    ledger.UserID  `json:"user"`             // in whose slot it was done
	Outcome string         `json:"outcome"`          // applied, refused; of an end COMPLETED, REFUNDED
	Reason  ledger.Reason  `json:"reason,omitempty"` // why it was refused, or refunded
	Change  ledger.Amount  `json:"change"`           // of the user's balance
	Balance *ledger.Amount `json:"balance"`          // after it, if it was applied
	Version *int64         `json:"version"`          // the number of the user's entry, if it was applied
	At      time.Time      `json:"at"`
	// Copy says that the shard does not answer for the slot: it is coming, or has left and is to be deleted.
	Copy bool `json:"copy"`
}

func identity(initiator, txID string) (id ledger.Identity, err error) {
	if id.Initiator, err = ledger.ParseUserID(initiator); err != nil {
		return id, err
	}
	id.TxID, err = ledger.ParseTxID(txID)
	return id, err
}

func (f *Face) userTransfer(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	id, err := identity(r.path("id"), r.path("tx_id"))
	if err != nil {
		return nil, err
	}
	way, err := f.way(r, view, id)
	if err != nil {
		return nil, err
	}
	return way.transfer, nil
}

// maxFollowed is how many transfers of one tx_id are shown with their ways.
const maxFollowed = 20

func (f *Face) transfers(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	txID, err := ledger.ParseTxID(r.path("tx_id"))
	if err != nil {
		return nil, err
	}
	found, unanswered := askAll(r, f, questionTime, shardIDs(view), func(ctx context.Context, s Shard) ([]ledger.StepSight, error) {
		return s.SeeStarts(ctx, txID)
	})
	ids := make(map[ledger.Identity]struct{})
	for _, starts := range found {
		for _, start := range starts {
			ids[start.Identity] = struct{}{}
		}
	}
	// Each is a question to every shard: so many are followed, and no more.
	followed := slices.SortedFunc(maps.Keys(ids), func(a, b ledger.Identity) int {
		return cmp.Compare(a.Initiator, b.Initiator)
	})
	list := TransferList{Transfers: []Transfer{}, More: len(followed) > maxFollowed, Unanswered: unanswered}
	for _, id := range followed[:min(len(followed), maxFollowed)] {
		way, err := f.way(r, view, id)
		if err != nil {
			return nil, err
		}
		list.Transfers = append(list.Transfers, way.transfer)
	}
	switch {
	case len(list.Transfers) > 0:
		return list, nil
	case len(unanswered) > 0:
		return nil, notAll("transfer", unanswered)
	}
	none := refusal(codeTxNotFound, "no user has a transfer %s", txID)
	none.Similar = f.similarIDs(r, string(txID), transfersLike)
	return nil, none
}

// notAll is answered where nothing was found, and not everybody was asked.
func notAll(what string, unanswered []Unanswered) error {
	first := unanswered[0]
	return refusal(codeUnavailable, "no %s of that id on the shards that answer, but shard %s does not: %s",
		what, first.Shard, first.Error)
}

// way is all that is known of a transfer.
type way struct {
	transfer Transfer
	home     ledger.ShardID
	saga     *ledger.SagaSight // nil: it is none
	// owned says that the saga is its home's own, by the map and by what the home itself says of the slot. Otherwise it may be
	// a copy that was left behind, of what nobody has paid: nothing may be done by it.
	owned bool
}

// way asks every shard for a transfer: wherever its slots have been, its owner has it, and others may have copies.
func (f *Face) way(ctx context.Context, view *View, id ledger.Identity) (*way, error) {
	home := view.Map.OwnerOf(id.Initiator).Shard
	// Where its other steps are only the start tells.
	start, err := f.startOf(ctx, view, home, id)
	if err != nil {
		return nil, err
	}
	var slots []ledger.Slot
	if start.Payee != "" {
		slots = append(slots, placement.SlotOf(start.Payee))
	}
	see := func(ctx context.Context, s Shard) (ledger.TransferSight, error) {
		return s.SeeTransfer(ctx, id, slots...)
	}
	sights, unanswered := askAll(ctx, f, questionTime, shardIDs(view), see)
	w := &way{home: home, transfer: Transfer{
		Initiator: id.Initiator, TxID: id.TxID, Kind: start.Kind.String(), Payee: start.Payee,
		Amount: start.Amount, Currency: start.Currency, Description: start.Description,
		Reason: start.Reason, Saga: start.Saga, CreatedAt: start.CreatedAt.UTC(),
		Steps: []StepInfo{}, Unanswered: unanswered,
	}}
	t := &w.transfer
	if start.Payee != "" {
		t.PayeeShard = view.Map.OwnerOf(start.Payee).Shard
	}
	var ends []StepInfo
	for _, shard := range shardIDs(view) {
		sight := sights[shard]
		ours := func(slot ledger.Slot) bool {
			return slices.ContainsFunc(sight.Slots, func(s ledger.SlotSight) bool { return s.Slot == slot && s.Ours() })
		}
		for _, step := range sight.Steps {
			t.Steps = append(t.Steps, stepInfo(shard, step, !ours(step.Slot)))
		}
		if saga := sight.Saga; saga != nil {
			copied := !ours(placement.SlotOf(id.Initiator))
			switch {
			case !copied && shard == home:
				w.saga, w.home, w.owned = saga, shard, true
			case !copied && !w.owned:
				w.saga, w.home = saga, shard
			case w.saga == nil:
				w.saga = saga
			}
			if !saga.EndedAt.IsZero() {
				ends = append(ends, StepInfo{
					Step: "end", Shard: shard, Slot: placement.SlotOf(id.Initiator), User: id.Initiator,
					Outcome: string(saga.State.Status()), Reason: saga.Cause, At: saga.EndedAt.UTC(), Copy: copied,
				})
			}
		}
	}
	t.Home = w.home
	t.finish(start, w.saga)
	// As they follow from each other: the clocks of two shards may differ.
	slices.SortStableFunc(t.Steps, func(a, b StepInfo) int { return cmp.Compare(stepOrder[a.Step], stepOrder[b.Step]) })
	t.Steps = append(t.Steps, ends...)
	return w, nil
}

var stepOrder = map[string]int{"start": 1, "credit": 2, "refund": 3}

// startOf reads the start of a transfer where it should be, or wherever it is.
func (f *Face) startOf(ctx context.Context, view *View, home ledger.ShardID, id ledger.Identity) (ledger.StepSight, error) {
	see := func(ctx context.Context, s Shard) (ledger.TransferSight, error) { return s.SeeTransfer(ctx, id) }
	isStart := func(s ledger.StepSight) bool { return s.Step == ledger.StepStart }
	if home == "" {
		return ledger.StepSight{}, &Error{Code: codeUnavailable, Message: "the cluster's slots are not spread yet"}
	}
	if sight, err := askOne(ctx, f, questionTime, home, see); err == nil {
		if i := slices.IndexFunc(sight.Steps, isStart); i >= 0 {
			return sight.Steps[i], nil
		}
	}
	sights, unanswered := askAll(ctx, f, questionTime, shardIDs(view), see)
	for _, sight := range sights {
		if i := slices.IndexFunc(sight.Steps, isStart); i >= 0 {
			return sight.Steps[i], nil
		}
	}
	if len(unanswered) > 0 {
		return ledger.StepSight{}, notAll("transfer", unanswered)
	}
	user, err := askOne(ctx, f, questionTime, home, func(ctx context.Context, s Shard) (ledger.UserSight, error) {
		return s.SeeUser(ctx, id.Initiator)
	})
	none := refusal(codeTxNotFound,
		"user %s has no transfer %s: the initiator of a transfer is its payer, or who gets an add", id.Initiator, id.TxID)
	if err == nil && user.User == nil {
		none.Message = fmt.Sprintf("there is no transfer %s of user %s, and no such user", id.TxID, id.Initiator)
		none.Similar = f.noUser(ctx, id.Initiator).Similar
	} else {
		none.Similar = f.similarIDs(ctx, string(id.TxID), transfersLike)
	}
	return ledger.StepSight{}, none
}

// finish says how the transfer stands, by its start and its saga.
func (t *Transfer) finish(start ledger.StepSight, saga *ledger.SagaSight) {
	switch {
	case start.Reason != ledger.Applied:
		t.Status = ledger.StatusRefused
	case !start.Saga:
		t.Status = ledger.StatusCompleted
	case saga != nil:
		t.Status, t.Reason, t.TraceID = saga.State.Status(), saga.Cause, traceOf(saga.Trace)
		t.EndedAt = optional(saga.EndedAt)
		t.Seconds = max(saga.EndedAt.Sub(start.CreatedAt).Seconds(), 0)
	default:
		t.Status = ledger.StatusPending
	}
	if t.Status == ledger.StatusPending {
		t.Seconds = max(time.Since(start.CreatedAt).Seconds(), 0)
	} else if t.EndedAt == nil {
		t.EndedAt = optional(start.CreatedAt)
	}
}

func stepInfo(shard ledger.ShardID, s ledger.StepSight, copied bool) StepInfo {
	info := StepInfo{
		Step: s.Step.String(), Shard: shard, Slot: s.Slot, User: s.Owner(), Outcome: "applied", Reason: s.Reason,
		At: s.CreatedAt.UTC(), Copy: copied,
	}
	if s.Reason != ledger.Applied {
		info.Outcome = "refused"
		return info
	}
	balance, version := s.Balance, s.Version
	info.Balance, info.Version, info.Change = &balance, &version, s.Amount
	if s.Step == ledger.StepStart && s.Kind != ledger.KindAdd {
		info.Change = -s.Amount
	}
	return info
}
