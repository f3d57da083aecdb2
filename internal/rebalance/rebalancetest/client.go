package rebalancetest

import (
	"context"
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// client writes all the time. It keeps its map until it is refused; an eager one always has the newest, a frozen one never
// another.
type client struct {
	world  *World
	name   string
	eager  bool
	frozen bool
	m      *placement.Map
}

func (c *client) run(ctx context.Context) {
	c.world.mu.Lock()
	c.m = c.world.placement()
	c.world.mu.Unlock()
	for n := 0; ctx.Err() == nil; n++ {
		c.world.mu.Lock()
		if c.eager {
			c.m = c.world.placement()
		}
		op := c.draw(n)
		pause := time.Duration(50+c.world.rand.IntN(200)) * time.Millisecond
		c.world.mu.Unlock()
		c.write(ctx, op)
		if n%4 == 0 {
			c.write(ctx, op) // a repeat
		}
		time.Sleep(pause)
	}
}

// draw makes up a write. The caller holds w.mu.
func (c *client) draw(n int) write {
	w := c.world
	draw := func() user {
		return user{slot: ledger.Slot(w.rand.IntN(slots)), n: w.rand.IntN(usersPerSlot)}
	}
	from, amount := draw(), int64(1+w.rand.IntN(9))
	op := write{id: fmt.Sprintf("%s-%d", c.name, n), legs: []leg{{user: from, amount: amount}}}
	if to := draw(); to != from && w.rand.IntN(2) == 0 && c.m.Owner(to.slot).Shard == c.m.Owner(from.slot).Shard {
		op.legs[0].amount = -amount
		op.legs = append(op.legs, leg{user: to, amount: amount})
	}
	return op
}

// write tries until the write is acknowledged. What would have been a transfer within one shard and is not any more, since
// one of its ends has moved, is given up: nothing of it was done.
func (c *client) write(ctx context.Context, op write) {
	w, began := c.world, time.Now()
	for ctx.Err() == nil {
		w.mu.Lock()
		apart := false
		for _, leg := range op.legs {
			apart = apart || c.m.Owner(leg.user.slot).Shard != c.m.Owner(op.legs[0].user.slot).Shard
		}
		b := w.books[c.m.Owner(op.legs[0].user.slot).Shard]
		if b.down || apart {
			w.mu.Unlock()
			return
		}
		answer, ok := b.do(op, c.m)
		switch {
		case ok:
			w.acked[op.id] = acked{op, b.id, time.Now()}
			w.slowest = max(w.slowest, time.Since(began))
			w.check()
		case answer == placement.EpochAhead && !c.frozen:
			w.violate("no false alarm: shard %s looks as if it had lost a write", b.id)
		}
		w.mu.Unlock()
		if ok || c.frozen {
			return
		}
		time.Sleep(10 * time.Millisecond)
		w.mu.Lock()
		c.m = w.placement()
		w.mu.Unlock()
	}
}
