package rebalancetest

import (
	"context"
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// pair is the two shards of a move, as package shard has them: each request is one of its transactions.
type pair struct {
	*process
	move           placement.Move
	token          int64
	source, target *book
}

var _ rebalance.Pair = (*pair)(nil)

// step says what a slot becomes for one who holds it at an epoch.
type step func(s slotRow, held ledger.Epoch) (slotRow, error)

// change lets all slots take a step, or none.
func (p *pair) change(ctx context.Context, b *book, doing string, holds []placement.Hold, next step, with func()) error {
	return p.request(ctx, b, func() error {
		after := make(map[ledger.Slot]slotRow)
		for _, hold := range holds {
			s, err := next(b.slots[hold.Slot], hold.Epoch)
			if err != nil {
				return fmt.Errorf("shard %s: slot %d: %w", b.id, hold.Slot, err)
			}
			if s != b.slots[hold.Slot] {
				after[hold.Slot] = s
			}
		}
		if len(after) == 0 {
			return nil
		}
		p.world.tell("%s: %s", p.name, doing)
		if with != nil {
			with()
		}
		for slot, s := range after {
			set(b, slotsOf, slot, s)
		}
		p.world.checkSums()
		return nil
	})
}

// take lets the same mover go on, or a newer one.
func (p *pair) take(s slotRow) (slotRow, error) {
	if s.token > p.token && p.world.bug != NoTokens {
		return s, rebalance.ErrTokenLost
	}
	s.token = max(s.token, p.token)
	return s, nil
}

func refuse(s slotRow, held ledger.Epoch) (slotRow, error) {
	return s, fmt.Errorf("held at %d, found %+v: %w", held, s, &placement.OwnershipError{
		Refusals: []placement.Refusal{{Held: held, Answer: placement.Moved, Epoch: s.epoch}},
	})
}

func (p *pair) Mark(ctx context.Context, holds []placement.Hold) error {
	err := p.change(ctx, p.source, "the source is marked", holds, func(s slotRow, held ledger.Epoch) (slotRow, error) {
		switch {
		case s.move == p.move.ID && s.epoch <= held:
			return p.take(s)
		case s.state == owned && s.epoch == held && s.move == "":
			s.move, s.token = p.move.ID, p.token
			return s, nil
		}
		return refuse(s, held)
	}, nil)
	if err != nil {
		return err
	}
	p.at("inside mark")
	err = p.change(ctx, p.target, "the target is marked", holds, func(s slotRow, held ledger.Epoch) (slotRow, error) {
		switch {
		case s.move == p.move.ID:
			return p.take(s)
		case s.state == moved && !s.clean:
			return s, rebalance.ErrNotClean
		case s.state == "" || s.state == moved && s.epoch <= held:
			return slotRow{state: incoming, epoch: held, move: p.move.ID, token: p.token}, nil
		case s.state == owned && s.epoch >= held:
			return s, nil // activated
		}
		return refuse(s, held)
	}, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", rebalance.ErrHalfMarked, err)
	}
	return nil
}

// read is a transaction at the source that changes nothing.
func (p *pair) read(ctx context.Context, see func() error) error {
	return p.request(ctx, p.source, see)
}

// store puts rows and progress in, if the target's slots are incoming under this mover.
func (p *pair) store(ctx context.Context, rows []row, change func(*progress)) error {
	return p.request(ctx, p.target, func() error {
		for _, slot := range p.move.Slots {
			if s := p.target.slots[slot]; s.state != incoming || s.move != p.move.ID {
				return fmt.Errorf("slot %d is not incoming: %+v", slot, s)
			} else if _, err := p.take(s); err != nil || s.token != p.token && p.world.bug != NoTokens {
				return rebalance.ErrTokenLost
			}
		}
		p.target.tx++
		for _, r := range rows {
			known, there := p.target.rows[r.key()]
			switch {
			case there && r.kind != accountRow && !r.same(known):
				return fmt.Errorf("%w: %+v is %+v", rebalance.ErrMismatch, r, known)
			case there && (r.kind != accountRow || r.version <= known.version):
				continue
			}
			r.tx = p.target.tx
			set(p.target, rowsOf, r.key(), r)
		}
		at := p.target.progress[p.move.ID]
		at.rows += int64(len(rows))
		change(&at)
		set(p.target, progressOf, p.move.ID, at)
		return nil
	})
}

func (p *pair) progress(ctx context.Context) (at progress, err error) {
	err = p.request(ctx, p.target, func() error {
		at = p.target.progress[p.move.ID]
		return nil
	})
	return at, err
}

// mustBeSame: a copy goes on only with the server that it began with.
func (p *pair) mustBeSame(at progress) error {
	if at.begun && at.timeline != p.source.timeline {
		return rebalance.ErrStale
	}
	return nil
}

func (p *pair) CopyChunk(ctx context.Context, most int) (int, error) {
	at, err := p.progress(ctx)
	if err != nil {
		return 0, err
	}
	var rows []row
	snapshot := at.snapshot
	err = p.read(ctx, func() error {
		if err := p.mustBeSame(at); err != nil {
			return err
		}
		if !at.begun {
			snapshot = p.source.tx
		}
		for _, r := range p.source.since(p.move.Slots, -1) {
			if r.key() > at.after && len(rows) < most {
				rows = append(rows, r)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	p.at("inside copy")
	return len(rows), p.store(ctx, rows, func(at *progress) {
		at.begun, at.timeline, at.snapshot = true, p.source.timeline, snapshot
		if len(rows) > 0 {
			at.after = rows[len(rows)-1].key()
		}
	})
}

func (p *pair) pass(ctx context.Context, final bool) (int, error) {
	at, err := p.progress(ctx)
	if err != nil {
		return 0, err
	}
	var (
		rows     []row
		snapshot int64
	)
	err = p.read(ctx, func() error {
		if !at.begun {
			return fmt.Errorf("the copy has not begun")
		}
		if err := p.mustBeSame(at); err != nil {
			return err
		}
		for _, slot := range p.move.Slots {
			s := p.source.slots[slot]
			mine := s.move == p.move.ID && (s.token == p.token || p.world.bug == NoTokens)
			if final && (s.state != fenced && (s.state != moved || s.clean) || !mine) {
				return fmt.Errorf("slot %d is not fenced by this mover: %+v", slot, s)
			}
		}
		rows, snapshot = p.source.since(p.move.Slots, at.snapshot), p.source.tx
		return nil
	})
	if err != nil {
		return 0, err
	}
	p.at("inside pass")
	return len(rows), p.store(ctx, rows, func(at *progress) {
		at.snapshot, at.final = snapshot, 0
		if final {
			at.final = p.target.timeline
		}
	})
}

func (p *pair) Pass(ctx context.Context) (int, error) { return p.pass(ctx, false) }

func (p *pair) VerifyChunk(ctx context.Context) (int, error) {
	at, err := p.progress(ctx)
	if err != nil {
		return 0, err
	}
	var rows []row
	err = p.read(ctx, func() error {
		if err := p.mustBeSame(at); err != nil {
			return err
		}
		for _, r := range p.source.since(p.move.Slots, -1) {
			if r.kind != accountRow && r.tx <= at.snapshot {
				rows = append(rows, r)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return 0, p.request(ctx, p.target, func() error {
		for _, r := range rows {
			if !r.same(p.target.rows[r.key()]) {
				return fmt.Errorf("%w: %s", rebalance.ErrMismatch, r.key())
			}
		}
		return nil
	})
}

func (p *pair) Fence(ctx context.Context, holds []placement.Hold) error {
	return p.change(ctx, p.source, "the source is fenced", holds, func(s slotRow, held ledger.Epoch) (slotRow, error) {
		if s.move != p.move.ID || s.epoch != held || s.state != owned && s.state != fenced {
			return refuse(s, held)
		}
		if s.state == owned {
			s.state, s.fencedAt = fenced, time.Now()
		}
		return p.take(s)
	}, nil)
}

func (p *pair) Unfence(ctx context.Context, holds []placement.Hold) error {
	return p.change(ctx, p.source, "the fence is lifted", holds, func(s slotRow, held ledger.Epoch) (slotRow, error) {
		if s.move != p.move.ID || s.epoch != held || s.state != owned && s.state != fenced {
			return refuse(s, held)
		}
		s.state, s.fencedAt = owned, time.Time{}
		return p.take(s)
	}, nil)
}

func (p *pair) Final(ctx context.Context) (int, error) {
	n, err := p.pass(ctx, true)
	if err == nil && p.world.bug == ActivatesEarly {
		p.world.mu.Lock()
		holds := p.move.Holds(p.world.placement())
		p.world.mu.Unlock()
		for i := range holds {
			holds[i].Epoch++
		}
		err = p.Activate(ctx, holds)
	}
	return n, err
}

func (p *pair) Activate(ctx context.Context, holds []placement.Hold) error {
	next := func(s slotRow, held ledger.Epoch) (slotRow, error) {
		mine := s.state == incoming && s.move == p.move.ID
		switch {
		case mine && s.epoch <= held || s.state == "" || s.state == moved && s.epoch < held:
			final := p.target.progress[p.move.ID].final
			if !mine || final != p.target.timeline && (final == 0 || p.world.bug != KeepsFinal) {
				return s, rebalance.ErrNotFinal
			}
			return slotRow{state: owned, epoch: held, clean: true}, nil
		case s.epoch >= held && !mine:
			return s, nil
		}
		return refuse(s, held)
	}
	return p.change(ctx, p.target, "the target is activated", holds, next, func() {
		set(p.target, movedOf, p.move.ID, -p.target.sumOf(p.move.Slots))
	})
}

// mayTell: the source has the slot under this move at an older epoch.
func (p *pair) mayTell(s slotRow, held ledger.Epoch) bool {
	return (s.state == owned || s.state == fenced) && (s.move == p.move.ID || s.move == "") && s.epoch < held
}

func (p *pair) Tombstone(ctx context.Context, holds []placement.Hold) error {
	next := func(s slotRow, held ledger.Epoch) (slotRow, error) {
		switch {
		case p.mayTell(s, held):
			return slotRow{state: moved, epoch: held, move: p.move.ID, token: max(s.token, p.token), movedTo: p.move.Target}, nil
		case s.epoch >= held:
			return s, nil
		}
		return refuse(s, held)
	}
	return p.change(ctx, p.source, "the source has a tombstone", holds, next, func() {
		set(p.source, movedOf, p.move.ID, p.source.sumOf(p.move.Slots))
	})
}

func (p *pair) Restore(ctx context.Context, holds []placement.Hold) error {
	return p.change(ctx, p.source, "the source is restored", holds, func(s slotRow, held ledger.Epoch) (slotRow, error) {
		switch {
		case p.mayTell(s, held), s.state == owned && s.move == p.move.ID, s.state == fenced && s.move == p.move.ID:
			return slotRow{state: owned, epoch: held, clean: true}, nil
		case s.epoch >= held && s.state == owned, s.epoch > held:
			return s, nil
		}
		return refuse(s, held)
	}, nil)
}

func (p *pair) Discard(ctx context.Context, holds []placement.Hold) error {
	return p.change(ctx, p.target, "the target discards", holds, func(s slotRow, held ledger.Epoch) (slotRow, error) {
		switch {
		case s.state == incoming && s.move == p.move.ID:
			s.state, s.epoch, s.movedTo = moved, max(s.epoch, held), p.move.Source
		case s.state == "" && p.world.bug != DiscardLeavesNothing:
			s = slotRow{state: moved, epoch: held, movedTo: p.move.Source, clean: true}
		case s.state == moved && s.epoch < held:
			s.epoch, s.movedTo = held, p.move.Source
		}
		return s, nil
	}, nil)
}

func (p *pair) Activated(ctx context.Context) (is bool, err error) {
	err = p.request(ctx, p.target, func() error {
		_, is = p.target.moved[p.move.ID]
		return nil
	})
	return is, err
}

// mayClean: the target owns what the source is about to delete, or has owned it.
func (p *pair) mayClean(ctx context.Context) error {
	left := make(map[ledger.Slot]ledger.Epoch)
	err := p.read(ctx, func() error {
		for _, slot := range p.move.Slots {
			if s := p.source.slots[slot]; s.state == moved && !s.clean && s.move == p.move.ID {
				left[slot] = s.epoch
			}
		}
		return nil
	})
	if err != nil || len(left) == 0 {
		return err
	}
	return p.request(ctx, p.target, func() error {
		for slot, epoch := range left {
			if s := p.target.slots[slot]; s.state == "" || s.state == incoming || s.epoch < epoch {
				return fmt.Errorf("%w: slot %d is %+v", rebalance.ErrNotActivated, slot, s)
			}
		}
		return nil
	})
}

func (p *pair) CleanChunk(ctx context.Context, most int) (deleted int, err error) {
	for _, b := range []*book{p.source, p.target} {
		if b == p.source && p.world.bug != CleansBlindly {
			if err := p.mayClean(ctx); err != nil {
				return 0, err
			}
		}
		err := p.request(ctx, b, func() error {
			for _, slot := range p.move.Slots {
				s := b.slots[slot]
				if (s.move == p.move.ID || s.move == "") && (s.state == fenced || s.move != "" && s.state == owned) {
					return fmt.Errorf("slot %d is %+v", slot, s)
				}
				if s.state != moved || s.clean || s.move != p.move.ID {
					continue
				}
				left := 0
				for key, r := range b.rows {
					if r.slot != slot {
						continue
					}
					if deleted == most {
						left++
						continue
					}
					drop(b, rowsOf, key)
					deleted++
				}
				if left == 0 {
					s.clean, s.move, s.token = true, "", 0
					set(b, slotsOf, slot, s)
				}
			}
			return nil
		})
		if err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

func (p *pair) Progress(ctx context.Context) (rebalance.Progress, error) {
	at, err := p.progress(ctx)
	return rebalance.Progress{Rows: at.rows}, err
}

func (p *pair) Close() {}
