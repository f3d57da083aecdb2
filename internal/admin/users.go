package admin

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// User is a user, where they live, and what they have.
type User struct {
	ID        ledger.UserID  `json:"id"`
	Name      string         `json:"name"`
	Email     string         `json:"email"`
	CreatedAt time.Time      `json:"created_at"`
	UpdatedAt time.Time      `json:"updated_at"`
	Slot      ledger.Slot    `json:"slot"`
	Epoch     ledger.Epoch   `json:"epoch"`
	Shard     ledger.ShardID `json:"shard"`  // by the map
	Moving    *UserMove      `json:"moving"` // null: the slot stays where it is
	Accounts  []Account      `json:"accounts"`
	Places    []Place        `json:"places"` // every shard that has the slot, or does not answer
	// Entries are the latest of all accounts, newest first.
	Entries []EntryInfo `json:"entries"`
}

// UserMove is the move that a user's slot takes part in.
type UserMove struct {
	ID    placement.MoveID `json:"id"`
	To    ledger.ShardID   `json:"to"`
	Phase placement.Phase  `json:"phase"`
}

// Account is a user's money in one currency.
type Account struct {
	Currency ledger.Currency `json:"currency"`
	Balance  ledger.Amount   `json:"balance"`
	Version  int64           `json:"version"`
}

// Place is a shard that has something of a user.
type Place struct {
	Shard   ledger.ShardID `json:"shard"`
	State   string         `json:"state"` // of the slot there: owned, fenced, incoming, moved; "" if the shard does not answer
	Epoch   ledger.Epoch   `json:"epoch"`
	MovedTo ledger.ShardID `json:"moved_to,omitempty"`
	Present bool           `json:"present"` // the user's rows are there; in a slot that is incoming or moved they are a copy
	Error   string         `json:"error,omitempty"`
}

// EntryInfo is a line of an account's history.
type EntryInfo struct {
	Currency     ledger.Currency `json:"currency"`
	Version      int64           `json:"version"`
	Change       ledger.Amount   `json:"change"`
	Balance      ledger.Amount   `json:"balance"` // after it
	Initiator    ledger.UserID   `json:"initiator"`
	TxID         ledger.TxID     `json:"tx_id"`
	Kind         string          `json:"kind"`
	Step         string          `json:"step"`
	Counterparty ledger.UserID   `json:"counterparty,omitempty"`
	At           time.Time       `json:"at"`
}

const shownEntries = 10

func (f *Face) user(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	id, err := ledger.ParseUserID(r.path("id"))
	if err != nil {
		return nil, err
	}
	sights, unanswered := askAll(r, f, questionTime, shardIDs(view), func(ctx context.Context, s Shard) (ledger.UserSight, error) {
		return s.SeeUser(ctx, id)
	})
	slot := placement.SlotOf(id)
	owner := view.Map.Owner(slot)
	u := User{
		ID: id, Slot: slot, Epoch: owner.Epoch, Shard: owner.Shard,
		Accounts: []Account{}, Entries: []EntryInfo{}, Places: []Place{},
	}
	for _, move := range view.Moves {
		if !move.Phase.Ended() && move.Phase != placement.PhaseClean && move.Slots.Contains(slot) {
			u.Moving = &UserMove{ID: move.ID, To: move.Target, Phase: move.Phase}
		}
	}
	var (
		found *ledger.User
		lives ledger.ShardID // where found is
	)
	for _, shard := range shardIDs(view) {
		sight, answers := sights[shard]
		if answers && (sight.Slot.State != "" || sight.User != nil) {
			u.Places = append(u.Places, Place{
				Shard: shard, State: sight.Slot.State, Epoch: sight.Slot.Epoch, MovedTo: sight.Slot.MovedTo,
				Present: sight.User != nil,
			})
		}
		if sight.User != nil && (found == nil || sight.Slot.Ours()) {
			found, lives = sight.User, shard
		}
	}
	for _, missing := range unanswered {
		u.Places = append(u.Places, Place{Shard: missing.Shard, Error: missing.Error})
	}
	if found == nil && len(unanswered) > 0 {
		return nil, notAll("user", unanswered)
	}
	if found == nil {
		return nil, f.noUser(r, id)
	}
	u.Name, u.Email, u.CreatedAt, u.UpdatedAt = found.Name, found.Email, found.CreatedAt.UTC(), found.UpdatedAt.UTC()
	for _, holding := range found.Holdings {
		u.Accounts = append(u.Accounts, Account{Currency: holding.Currency, Balance: holding.Balance, Version: holding.Version})
		page, err := askOne(r, f, questionTime, lives, func(ctx context.Context, s Shard) (ledger.HistoryPage, error) {
			return s.SeeHistory(ctx, id, holding.Currency, 0, shownEntries)
		})
		if err != nil {
			continue // the slot is just moving: the accounts are there all the same
		}
		for _, line := range page.Lines {
			u.Entries = append(u.Entries, EntryInfo{
				Currency: holding.Currency, Version: line.Version, Change: line.Amount, Balance: line.Balance,
				Initiator: line.Initiator, TxID: line.TxID, Kind: line.Kind.String(), Step: line.Step.String(),
				Counterparty: line.Counterparty, At: line.CreatedAt.UTC(),
			})
		}
	}
	slices.SortStableFunc(u.Entries, func(a, b EntryInfo) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Version, a.Version))
	})
	u.Entries = u.Entries[:min(len(u.Entries), shownEntries)]
	return u, nil
}
