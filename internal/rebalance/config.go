package rebalance

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// Config of a Rebalancer. Zero values mean the defaults.
type Config struct {
	Automatic    bool          // plan moves whenever the shards are not balanced; draining shards are emptied in any case
	Retention    time.Duration // for which a copy that is not needed any more is kept; default 10 min; negative: not at all
	FenceBudget  time.Duration // from Fence to the end of Final; default 1 s
	Deadman      time.Duration // for which slots may be fenced at all; default 5 s
	Share        float64       // of the time that copying and deleting may take; default 0.25
	ChunkRows    int           // copied or deleted in one transaction; default 500: larger ones keep clients waiting for longer at a time
	SmallPass    int           // rows of a pass that are few enough to fence; default 500
	SlotsPerMove int           // planned for one move; default 128
	Poll         time.Duration // look at the cluster, if nobody has told of a change; default 5 s
	MinPause     time.Duration // after an error; default 100 ms
	MaxPause     time.Duration // default 10 s

	// At is called before and after everything that has an effect (Points). For tests, which kill, stop and delay there.
	At func(point string)
}

func (c *Config) setDefaults() {
	for value, fallback := range map[*time.Duration]time.Duration{
		&c.Retention: 10 * time.Minute, &c.FenceBudget: time.Second, &c.Deadman: 5 * time.Second,
		&c.Poll: 5 * time.Second, &c.MinPause: 100 * time.Millisecond, &c.MaxPause: 10 * time.Second,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	for value, fallback := range map[*int]int{&c.ChunkRows: 500, &c.SmallPass: 500, &c.SlotsPerMove: 128} {
		if *value == 0 {
			*value = fallback
		}
	}
	if c.Share <= 0 || c.Share > 1 {
		c.Share = 0.25
	}
	if c.At == nil {
		c.At = func(string) {}
	}
}

// The effects of movers, of the planner and of the dead-man. Config.At gets each with "before " and "after " in front.
const (
	pointPlan      = "plan"      // a move's record is created
	pointMark      = "mark"      // the shards carry the move and this mover's token
	pointCopy      = "copy"      // a chunk
	pointPass      = "pass"      // what has changed since
	pointVerify    = "verify"    // some slots
	pointFence     = "fence"     // writes stop
	pointUnfence   = "unfence"   // and go on
	pointFinal     = "final"     // the last pass
	pointSwitch    = "switch"    // the target is the owner
	pointAbort     = "abort"     // the source is the owner, again
	pointActivate  = "activate"  // the target knows
	pointTombstone = "tombstone" // the source knows
	pointRestore   = "restore"   // the source knows, after an abort
	pointDiscard   = "discard"   // the target knows, after an abort
	pointClean     = "clean"     // a chunk of what is left is deleted
	pointRecord    = "record "   // a phase is written; the phase follows
)

// Points are the names of all effects.
var Points = []string{
	pointPlan, pointRecord + "mark", pointMark, pointRecord + "copy", pointCopy, pointRecord + "catchup", pointPass,
	pointVerify,
	pointRecord + "fence", pointFence, pointFinal, pointSwitch, pointActivate, pointTombstone, pointRecord + "clean",
	pointClean,
	pointRecord + "done",
	pointUnfence, pointAbort, pointRestore, pointDiscard, pointRecord + "aborted",
}

// at runs something that has an effect.
func (c *Config) at(point string, effect func() error) error {
	c.At("before " + point)
	defer func() { c.At("after " + point) }()
	return effect()
}

// rests tells whether there is nothing to do for a move: a person wants it to wait where it is, or its copy is kept for a
// while. One that is catching up is never left alone: its slots may be fenced.
func (c *Config) rests(move placement.Move) bool {
	switch move.Phase {
	case placement.PhasePlanned, placement.PhaseMark, placement.PhaseCopy:
		return move.Paused && move.Cause == ""
	case placement.PhaseClean:
		return move.Paused || c.keeps(move) > 0
	}
	return false
}

// keeps is for how long the copy that a decided move has left is still to be kept: after a switch from when the shards had
// been told. After an abort it is only if it is evidence.
func (c *Config) keeps(move placement.Move) time.Duration {
	if move.DecidedAt == nil || move.Phase == placement.PhaseAborting && !move.Evidence {
		return 0
	}
	since := *move.DecidedAt
	if move.ToldAt != nil {
		since = *move.ToldAt
	}
	return time.Until(since.Add(c.Retention))
}

// newPause returns how long to wait after one error after the other.
func newPause(least, most time.Duration) *backoff.ExponentialBackOff {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = least, max(least, most)
	pause.Reset()
	return pause
}

// rest is how long to do nothing after some copying, so that copying takes its share of the time and no more.
func (c *Config) rest(worked time.Duration) time.Duration {
	const longest = 30 * time.Second
	pause := time.Duration(float64(worked) * (1 - c.Share) / c.Share)
	return min(pause+rand.N(pause/16+1), longest)
}
