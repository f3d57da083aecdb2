package admin

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// MoveList is moves of slots, by id: the latest is the last.
type MoveList struct {
	Moves []MoveInfo `json:"moves"`
	Ended int        `json:"ended"` // that are recorded, shown or not
	// Leader is the coordinator that moves slots; "": nobody was elected, so nothing moves, or it is not known.
	Leader string `json:"leader"`
}

// MoveInfo is one move.
type MoveInfo struct {
	ID          placement.MoveID  `json:"id"`
	Source      ledger.ShardID    `json:"source"`
	Target      ledger.ShardID    `json:"target"`
	Slots       placement.SlotSet `json:"slots"`
	Number      int               `json:"number"` // of slots
	Phase       placement.Phase   `json:"phase"`
	Paused      bool              `json:"paused"`
	Why         string            `json:"why"`
	Cause       string            `json:"cause,omitempty"`
	Evidence    bool              `json:"evidence"`
	FenceMillis int64             `json:"fence_millis"`
	CreatedAt   time.Time         `json:"created_at"`
	DecidedAt   *time.Time        `json:"decided_at"`
	ToldAt      *time.Time        `json:"told_at"`
	EndedAt     *time.Time        `json:"ended_at"`
	Progress    *MoveProgress     `json:"progress"` // of one whose rows are being copied; null: not known
}

// MoveProgress is how far the copy of a move has come.
type MoveProgress struct {
	Rows     int64 `json:"rows"`
	Expected int64 `json:"expected"` // by the source's statistics; 0: not known
	Passes   int   `json:"passes"`   // since the copy of what was there
	LastPass int   `json:"last_pass"`
}

func moveInfo(move placement.Move) MoveInfo {
	return MoveInfo{
		ID: move.ID, Source: move.Source, Target: move.Target, Slots: move.Slots, Number: len(move.Slots), Phase: move.Phase,
		Paused: move.Paused, Why: move.Why, Cause: move.Cause, Evidence: move.Evidence, FenceMillis: move.FenceMillis,
		CreatedAt: move.CreatedAt, DecidedAt: move.DecidedAt, ToldAt: move.ToldAt, EndedAt: move.EndedAt,
	}
}

func (f *Face) listMoves(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	all := r.query("all")
	if all != "" && all != "true" && all != "false" {
		return nil, malformed(`parameter "all" is true or false`)
	}
	list := MoveList{Moves: []MoveInfo{}}
	for _, move := range view.Moves {
		if move.Phase.Ended() {
			list.Ended++
		}
		if all == "true" || !move.Phase.Ended() {
			list.Moves = append(list.Moves, f.withProgress(r, move))
		}
	}
	ctx, cancel := context.WithTimeout(r, questionTime)
	defer cancel()
	leaders, _ := f.Registry.Leaders(ctx) // who leads is not worth failing
	list.Leader = leaders["rebalancer"]
	return list, nil
}

func (f *Face) move(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	move, err := moveOf(view, r.path("id"))
	if err != nil {
		return nil, err
	}
	return f.withProgress(r, move), nil
}

// withProgress asks the target how far the copy is.
func (f *Face) withProgress(ctx context.Context, move placement.Move) MoveInfo {
	info := moveInfo(move)
	switch move.Phase {
	case placement.PhaseCopy, placement.PhaseCatchup, placement.PhaseFence:
		progress, err := askOne(ctx, f, questionTime, move.Target, func(ctx context.Context, s Shard) (rebalance.Progress, error) {
			return s.MoveProgress(ctx, move.ID)
		})
		if err == nil {
			p := MoveProgress(progress)
			info.Progress = &p
		}
	}
	return info
}

// moveOf returns the move whose id begins or ends so.
func moveOf(view *View, text string) (found placement.Move, err error) {
	var ids []string
	for _, move := range view.Moves {
		if id := string(move.ID); strings.HasPrefix(id, text) || strings.HasSuffix(id, text) {
			found = move
			ids = append(ids, id)
		}
	}
	switch {
	case len(ids) == 1:
		return found, nil
	case len(ids) == 0:
		return found, refusal(codeMoveNotFound, "no move has an id that begins or ends with %q", text)
	}
	several := refusal(codeMoveNotFound, "%d moves have an id that begins or ends with %q: say more of it", len(ids), text)
	several.Similar = ids[:min(len(ids), maxSimilar)]
	return found, several
}

// MoveAbort says why a move is taken back.
type MoveAbort struct {
	Why string `json:"why"`
}

func (f *Face) pauseMove(r *request) (any, error)  { return f.setPaused(r, true) }
func (f *Face) resumeMove(r *request) (any, error) { return f.setPaused(r, false) }

func (f *Face) setPaused(r *request, paused bool) (any, error) {
	return f.changeMove(r, &struct{}{}, func(ctx context.Context, id placement.MoveID) (placement.Move, error) {
		return f.Registry.PauseMove(ctx, id, paused)
	})
}

func (f *Face) abortMove(r *request) (any, error) {
	var abort MoveAbort
	return f.changeMove(r, &abort, func(ctx context.Context, id placement.MoveID) (placement.Move, error) {
		why := strings.TrimSpace(abort.Why)
		if why == "" {
			why = "by hand"
		}
		if len(why) > 500 {
			return placement.Move{}, malformed("why is longer than 500 bytes")
		}
		return f.Registry.AbortMove(ctx, id, why)
	})
}

func (f *Face) changeMove(
	r *request, body any, change func(context.Context, placement.MoveID) (placement.Move, error),
) (any, error) {
	if err := r.body(body); err != nil {
		return nil, err
	}
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	move, err := moveOf(view, r.path("id"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r, questionTime)
	defer cancel()
	changed, err := change(ctx, move.ID)
	var (
		told    *Error
		refused *ledger.Error
	)
	switch {
	case err == nil:
		f.Log.InfoContext(r, "an operator has changed a move",
			"path", r.http.URL.Path, "move", changed.ID, "phase", changed.Phase)
		return moveInfo(changed), nil
	case errors.As(err, &refused) && refused.Code == ledger.CodeUnknown,
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		f.Log.WarnContext(r, "whether an operator has changed a move is not known",
			"path", r.http.URL.Path, "move", move.ID, "error", err)
		return nil, refusal(codeUnknown, "etcd did not answer in time: whether it was done the move's record tells "+
			"(saldo move list, or GET %s/moves/%s)", Prefix, move.ID)
	case errors.As(err, &told) || errors.As(err, &refused):
		return nil, err
	}
	return nil, &Error{Code: codeMoveRefused, Message: err.Error()}
}
