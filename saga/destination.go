package saga

import (
	"cmp"
	"context"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// destination is where steps are sent: a payee's shard, the home, or a slot that refused one. Each has its own pace and its
// own share of the sagas under way: one that does not answer delays its own sagas, never the head of the queue.
type destination struct {
	limit int         // of the sagas that may have a place here; the home has no places
	slot  ledger.Slot // if it is one
	due   []*run      // what is to be sent next

	sending  bool      // somebody is about to send what is due
	failures int       // in a row
	until    time.Time // nothing is sent before that
	running  int       // sagas that have a place here
	missed   bool      // sagas were left in the queue for want of a place
}

// admit starts a saga unless it is under way or there is no place for it. The caller holds d.mu.
func (d *Driver) admit(ctx context.Context, p *Pending) {
	if _, ok := d.running[p.Identity]; ok {
		return
	}
	if _, ok := d.alarmed[p.Identity]; ok {
		return
	}
	place := cmp.Or(d.troubled(p.Payee), d.troubled(p.Initiator))
	if place == nil {
		place = d.shardOf(p.Payee)
	}
	if place.running >= place.limit {
		place.missed = true
		return
	}
	r := &run{Pending: *p, place: place, ours: d.steps.ShardOf(p.Initiator) == d.home.ID()}
	r.start(ctx, d.tracer)
	place.running++
	d.running[p.Identity] = r
	d.next(ctx, r)
}

func (d *Driver) shardOf(user ledger.UserID) *destination {
	shard := d.steps.ShardOf(user)
	to := d.toShard[shard]
	if to == nil {
		to = &destination{limit: d.config.PerPayee}
		d.toShard[shard] = to
	}
	return to
}

// troubled returns the destination of a user's slot if it refused a step; nil for most users.
func (d *Driver) troubled(user ledger.UserID) *destination {
	if len(d.toSlot) == 0 {
		return nil
	}
	return d.toSlot[placement.SlotOf(user)]
}

// takeMissed tells whether sagas that were left in the queue can be admitted now.
func (d *Driver) takeMissed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	missed := d.missed
	d.missed = false
	take := func(to *destination) {
		if to.missed && to.running <= to.limit/2 {
			to.missed, missed = false, true
		}
	}
	for _, to := range d.toShard {
		take(to)
	}
	for _, to := range d.toSlot {
		take(to)
	}
	return missed
}

// next does what the machine has decided. The caller holds d.mu.
func (d *Driver) next(ctx context.Context, r *run) {
	user, to := r.Initiator, d.toHome
	switch r.action {
	case Alarm:
		d.alarm(r)
		d.drop(r)
		return
	case Stop:
		d.drop(r)
		return
	case SendCredit:
		user, to = r.Payee, d.shardOf(r.Payee)
	}
	if slot := d.troubled(user); slot != nil {
		to = slot
	}
	d.enqueue(ctx, r, to)
}

// drop forgets a saga: it has ended, or is left in the queue. The caller holds d.mu.
func (d *Driver) drop(r *run) {
	d.leave(r)
	delete(d.running, r.Identity)
	r.stop()
}

// leave gives up a saga's place. The caller holds d.mu.
func (d *Driver) leave(r *run) {
	if r.place.running--; r.place.missed && r.place.running <= r.place.limit/2 {
		due(d.wake)
	}
}

// enqueue makes a run's next step due. Those that become due under one lock are sent together. The caller holds d.mu.
func (d *Driver) enqueue(ctx context.Context, r *run, to *destination) {
	if to.due = append(to.due, r); !to.sending {
		to.sending = true
		d.underway.Go(func() {
			defer tracing.Crash(d.log, "carrying sagas")
			d.send(ctx, to)
		})
	}
}

// send sends what is due as soon as the destination may be asked.
func (d *Driver) send(ctx context.Context, to *destination) {
	d.mu.Lock()
	wait := time.Until(to.until)
	d.mu.Unlock()
	if wait > 0 && !sleep(ctx, wait) {
		return
	}
	d.mu.Lock()
	runs := to.due
	to.due, to.sending = nil, false
	d.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	timed, cancel := context.WithTimeout(ctx, d.config.StepTimeout)
	defer cancel()
	answers := act(timed, d.steps, runs)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setPace(to, answers)
	for i, r := range runs {
		d.advance(ctx, r, &answers[i])
	}
}

// advance takes a run further by an answer. The caller holds d.mu.
func (d *Driver) advance(ctx context.Context, r *run, answer *ledger.Answer) {
	if r.learn(answer) {
		d.next(ctx, r)
		return
	}
	if r.ours && d.steps.ShardOf(r.Initiator) != d.home.ID() {
		d.drop(r) // its home has moved: it stands in another queue
		return
	}
	d.metrics.retries[r.action].Add(1)
	d.complain(r, answer.Err)
	if slot, ok := refusedSlot(answer.Err); ok {
		d.awaitSlot(ctx, r, slot)
		return
	}
	if !strange(answer.Err) {
		d.next(ctx, r) // at the destination's pace
		return
	}
	r.tries++
	wait := jitter(d.backoff(r.tries))
	d.underway.Go(func() {
		defer tracing.Crash(d.log, "carrying sagas")
		if sleep(ctx, wait) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.next(ctx, r)
		}
	})
}

// awaitSlot lets a run wait for a slot that has refused its step: with a place of the slot's, or in the queue. So a slot
// that stays refused does not take the places of the others on its shard. The caller holds d.mu.
func (d *Driver) awaitSlot(ctx context.Context, r *run, slot ledger.Slot) {
	to := d.toSlot[slot]
	if to == nil {
		to = &destination{limit: d.config.PerSlot, slot: slot, failures: 1, until: time.Now().Add(jitter(d.backoff(1)))}
		d.toSlot[slot] = to
	}
	if r.place != to {
		if to.running >= to.limit {
			to.missed = true
			d.drop(r)
			return
		}
		d.leave(r)
		r.place = to
		to.running++
	}
	d.enqueue(ctx, r, to)
}

// setPace decides when a destination is asked again: it backs off as long as nothing answers. A slot that answers is one
// of its shard again. The caller holds d.mu.
func (d *Driver) setPace(to *destination, answers []ledger.Answer) {
	isSlot := d.toSlot[to.slot] == to
	answered, failed := false, false
	for i := range answers {
		err := answers[i].Err
		if _, aboutSlot := refusedSlot(err); err == nil || strange(err) || aboutSlot && !isSlot {
			answered = true
		} else {
			failed = true
		}
	}
	switch now := time.Now(); {
	case !failed:
		to.failures = 0
	case now.After(to.until): // the first of those that were under way together
		if answered {
			to.failures = 0 // there is only too much to do
		}
		to.failures++
		to.until = now.Add(jitter(d.backoff(to.failures)))
	}
	if isSlot && answered {
		delete(d.toSlot, to.slot)
		if to.missed {
			d.missed = true
			due(d.wake)
		}
	}
}

func (d *Driver) backoff(tries int) time.Duration {
	return min(d.config.MinPause<<min(tries-1, 16), d.config.MaxPause)
}

// complain logs what a person should know: a strange error at once, a saga that has grown old then; and each again after
// another 32 tries.
func (d *Driver) complain(r *run, err error) {
	age := time.Since(r.CreatedAt)
	if !strange(err) && age <= d.config.OldAge || r.silent > 0 {
		r.silent = max(r.silent-1, 0)
		return
	}
	d.log.ErrorContext(r.traced(), "a saga does not end", "initiator", r.Initiator, "tx_id", r.TxID, "age", age.Round(time.Second),
		"action", r.action.String(), "error", err)
	r.silent = 31
}

func due(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}
