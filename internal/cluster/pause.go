package cluster

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// pause waits a little longer each time, with jitter: 100 ms to 5 s.
type pause struct{ next *backoff.ExponentialBackOff }

func newPause() pause {
	next := backoff.NewExponentialBackOff()
	next.InitialInterval, next.MaxInterval = 100*time.Millisecond, 5*time.Second
	return pause{next}
}

// reset makes the next wait the shortest again.
func (p pause) reset() { p.next.Reset() }

// wait returns ctx's error if ctx ends first.
func (p pause) wait(ctx context.Context) error {
	timer := time.NewTimer(p.next.NextBackOff())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
