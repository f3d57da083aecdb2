package api

import (
	"context"
	"net"
	"time"
)

// alarm ends the context of a connection, and so of the request on it, when the request takes too long. It is one timer for
// all requests of the connection, which come one at a time: a context.WithTimeout for each costs more than the rest of this
// package. Once it has rung the connection is of no use any more.
type alarm struct {
	timer *time.Timer
	end   context.CancelFunc // nil: it is the connection's
}

type alarmKey struct{}

// withAlarm is the ConnContext of a server whose own context never ends: it would keep each connection's until then.
func withAlarm(ctx context.Context, _ net.Conn) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(time.Hour, func() { cancel(context.DeadlineExceeded) })
	timer.Stop()
	return context.WithValue(ctx, alarmKey{}, timer)
}

// setAlarm bounds the request's context.
func (r *request) setAlarm(timeout time.Duration) alarm {
	if timeout <= 0 {
		return alarm{}
	}
	r.deadline = time.Now().Add(timeout)
	if timer, ok := r.Value(alarmKey{}).(*time.Timer); ok {
		timer.Reset(timeout)
		return alarm{timer: timer}
	}
	var cancel context.CancelFunc
	r.Context, cancel = context.WithDeadline(r.Context, r.deadline)
	return alarm{end: cancel}
}

// Deadline implements context.Context.
func (r *request) Deadline() (time.Time, bool) { return r.deadline, !r.deadline.IsZero() }

// stop ends the alarm when the request is done, and tells whether the connection can have another one.
func (a alarm) stop() bool {
	if a.end != nil {
		a.end()
	}
	return a.timer == nil || a.timer.Stop()
}
