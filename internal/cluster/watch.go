package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Status says how well a Watcher's view follows etcd.
type Status struct {
	Connected bool      // the last request to etcd was answered
	Contact   time.Time // of the last answer
	Problem   string    // why the view stands still: what the keys say makes no sense; "" if they do
}

// Watcher follows a cluster. It always has a view: without etcd, the last one. Close it.
type Watcher struct {
	cluster *Cluster
	log     *slog.Logger
	view    atomic.Pointer[View]
	status  atomic.Pointer[Status]
	wake    chan struct{} // tells follow that there is a flight
	cancel  context.CancelFunc
	done    chan struct{} // closed when follow has returned

	stopMetrics func()

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed and replaced at each change
	waiting *flight       // guarded by mu; the listing that has not begun yet, nil if nobody asked for one

	// Owned by follow, and by Watch before it.
	all      map[string]record             // every key under the prefix, as of revision
	revision int64                         // of the last listing or event in all; events up to it are skipped
	events   <-chan clientv3.WatchResponse // closed when the watch has ended; nil if there is none
	unwatch  context.CancelFunc            // ends events
	watches  sync.WaitGroup
}

// flight is one listing that any number of callers of Refresh wait for.
type flight struct {
	done chan struct{} // closed when err is set
	err  error
}

// probeInterval is how often a watcher asks whether etcd is there.
const probeInterval = time.Second

// Watch reads the cluster and starts to follow it. ctx bounds the first read only. The error is ErrNotInitialized or
// ErrMismatch where these apply; without a first good view there is no Watcher.
func (c *Cluster) Watch(ctx context.Context) (*Watcher, error) {
	resp, err := c.client.Get(ctx, c.keys.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("watch the cluster: %w", err)
	}
	w := &Watcher{
		cluster:  c,
		log:      c.log,
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		changed:  make(chan struct{}),
		all:      records(resp),
		revision: resp.Header.Revision,
		unwatch:  func() {},
	}
	view, err := c.keys.view(w.all, w.revision, nil)
	if err != nil {
		return nil, fmt.Errorf("watch the cluster: %w", err)
	}
	w.view.Store(view)
	w.status.Store(&Status{Connected: true, Contact: time.Now()})

	following, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel = cancel
	w.stopMetrics = w.observe()
	go w.follow(following)
	return w, nil
}

// Close ends the watcher. Current goes on answering.
func (w *Watcher) Close() {
	w.stopMetrics()
	w.cancel()
	<-w.done
}

// Current returns the last good view.
func (w *Watcher) Current() *View { return w.view.Load() }

// Status returns how well Current follows etcd.
func (w *Watcher) Status() Status { return *w.status.Load() }

// Changed returns a channel that is closed when Current returns another view or Status another Connected or Problem than
// when Changed was called. So call Changed first, then look, then wait.
func (w *Watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// ErrClosed: the watcher was closed.
var ErrClosed = errors.New("the watcher is closed")

// Refresh returns a view newer than revision, or else one that was the newest at some moment after Refresh was called. Whoever
// finds that the view it works with is wrong passes that view's Revision: if a newer one is here, no request is made; if
// not, one linearizable read, begun after the call, serves all who wait.
//
// On an error the view is still the best one known, never nil.
func (w *Watcher) Refresh(ctx context.Context, revision int64) (*View, error) {
	if view := w.Current(); view.Revision > revision {
		return view, nil
	}
	w.mu.Lock()
	if w.waiting == nil {
		w.waiting = &flight{done: make(chan struct{})}
	}
	flight := w.waiting
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	var err error
	select {
	case <-flight.done:
		err = flight.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-w.done:
		err = ErrClosed
	}
	if err != nil {
		return w.Current(), fmt.Errorf("refresh the view of the cluster: %w", err)
	}
	return w.Current(), nil
}

// reading is one request of follow, under way or answered.
type reading struct {
	flight *flight // who waits for it, or nil
	list   bool    // all keys, or only what a probe asks for
	asked  int64   // the revision that we had when it was sent: a linearizable answer is not older
	resp   *clientv3.GetResponse
	err    error
}

// follow keeps the view up to date until ctx ends. At most one request is under way: those who ask meanwhile get the next.
func (w *Watcher) follow(ctx context.Context) {
	defer close(w.done)
	answers := make(chan reading, 1)
	busy := false // a request is under way; its answer will be in answers
	list := false // the keys must be listed
	defer func() {
		w.unwatch()
		w.watches.Wait()
		if busy {
			<-answers // ctx has ended it
		}
	}()
	start := func(r reading) {
		busy, r.asked = true, w.revision
		known := len(w.all)
		go func() { answers <- w.read(ctx, r, known) }()
	}
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	w.watch(ctx)
	for {
		if !busy {
			if flight := w.takeFlight(); flight != nil || list {
				start(reading{flight: flight, list: true})
				list = false
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake: // takes the flight above
		case <-tick.C:
			if !busy {
				start(reading{list: w.events == nil})
			}
		case answer := <-answers:
			busy = false
			list = w.answered(ctx, answer)
		case resp, ok := <-w.events:
			w.arrived(ctx, resp, ok)
		}
	}
}

func (w *Watcher) takeFlight() *flight {
	w.mu.Lock()
	defer w.mu.Unlock()
	flight := w.waiting
	w.waiting = nil
	return flight
}

// read does the request of a reading. It runs beside follow and touches nothing that follow owns.
func (w *Watcher) read(ctx context.Context, r reading, known int) reading {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := []clientv3.OpOption{clientv3.WithPrefix()}
	if !r.list {
		options = append(options, clientv3.WithKeysOnly(), clientv3.WithMinModRev(r.asked+1))
	}
	r.resp, r.err = w.cluster.client.Get(ctx, w.cluster.keys.prefix, options...)
	if r.err == nil && !r.list && len(r.resp.Kvs) == 0 && r.resp.Count == int64(known) && r.resp.Header.Revision >= r.asked {
		r.resp = nil // nothing that we do not know
	}
	return r
}

// answered takes the answer of a request, and tells whether a probe found that the watch has not brought everything.
func (w *Watcher) answered(ctx context.Context, r reading) (behind bool) {
	w.contact(r.err)
	switch {
	case r.err != nil:
	case !r.list:
		// Events may have come while the probe was under way; then what it found is perhaps known by now, and a listing
		// does no harm.
		return r.resp != nil
	default:
		r.err = w.listed(ctx, r)
	}
	if r.flight != nil {
		r.flight.err = r.err
		close(r.flight.done)
	}
	return false
}

// listed takes a listing, and watches again from there if need be.
func (w *Watcher) listed(ctx context.Context, r reading) error {
	revision := r.resp.Header.Revision
	if revision < r.asked {
		// The store has gone back, as one restored from a backup has. The watch would wait for a revision that will be
		// used for something else. What the keys say now is checked against the last view, like all they say.
		w.log.ErrorContext(ctx, "etcd has gone back in time", "from", r.asked, "to", revision)
		w.stopWatching()
	} else if revision < w.revision {
		return w.problem() // events have overtaken the listing
	}
	all := records(r.resp)
	same := w.cluster.keys.sameMapped(all, w.all)
	w.all, w.revision = all, revision
	if w.events == nil {
		w.watch(ctx)
	}
	if same {
		return w.problem()
	}
	return w.rebuild(ctx)
}

// arrived takes what the watch brings. When it has ended, the next tick lists the keys and watches again.
func (w *Watcher) arrived(ctx context.Context, resp clientv3.WatchResponse, ok bool) {
	if err := resp.Err(); !ok || err != nil {
		w.log.DebugContext(ctx, "watch ended", "error", err, "compacted", resp.CompactRevision)
		w.stopWatching()
		return
	}
	w.contact(nil)
	mapped := false
	for _, event := range resp.Events { // whole revisions, in order
		if event.Kv.ModRevision <= w.revision {
			continue
		}
		key := string(event.Kv.Key)
		if event.Type == clientv3.EventTypeDelete {
			delete(w.all, key)
		} else {
			w.all[key] = record{string(event.Kv.Value), event.Kv.ModRevision}
		}
		mapped = mapped || w.cluster.keys.mapped(key)
	}
	if n := len(resp.Events); n > 0 {
		w.revision = max(w.revision, resp.Events[n-1].Kv.ModRevision)
	}
	if mapped {
		_ = w.rebuild(ctx) // which tells by Status
	}
}

// watch begins to watch from the next revision. The watch has its own goroutine because clientv3's Watch does not return
// while etcd is away.
func (w *Watcher) watch(ctx context.Context) {
	ctx, w.unwatch = context.WithCancel(clientv3.WithRequireLeader(ctx))
	events, next := make(chan clientv3.WatchResponse), w.revision+1
	w.events = events
	w.watches.Go(func() {
		defer close(events)
		for resp := range w.cluster.client.Watch(ctx, w.cluster.keys.prefix, clientv3.WithPrefix(), clientv3.WithRev(next)) {
			select {
			case events <- resp:
			case <-ctx.Done():
				return
			}
		}
	})
}

func (w *Watcher) stopWatching() {
	w.unwatch()
	w.events = nil
}

// rebuild makes the view of all keys, or says what the problem is and leaves the last one.
func (w *Watcher) rebuild(ctx context.Context) error {
	status := w.Status()
	view, err := w.cluster.keys.view(w.all, w.revision, w.Current())
	if err != nil {
		status.Problem = err.Error()
		if status.Problem != w.Status().Problem {
			w.log.ErrorContext(ctx, "the cluster's keys make no sense: the last good view stays", "problem", err, "revision", w.revision)
		}
		w.publish(w.Current(), status)
		return err
	}
	if status.Problem != "" {
		w.log.InfoContext(ctx, "the cluster's keys make sense again", "revision", w.revision)
	}
	status.Problem = ""
	w.publish(view, status)
	return nil
}

// problem is the last rebuild's error.
func (w *Watcher) problem() error {
	if problem := w.Status().Problem; problem != "" {
		return errors.New(problem)
	}
	return nil
}

// contact notes whether etcd has answered.
func (w *Watcher) contact(err error) {
	status := w.Status()
	if connected := err == nil; connected != status.Connected {
		status.Connected = connected
		if connected {
			w.log.Info("etcd is back", "away", time.Since(status.Contact).Round(time.Millisecond))
		} else {
			w.log.Warn("etcd is away: going on with the view that we have", "error", err)
		}
	}
	if err == nil {
		status.Contact = time.Now()
	}
	w.publish(w.Current(), status)
}

func (w *Watcher) publish(view *View, status Status) {
	last := w.Status()
	changed := view != w.Current() || status.Connected != last.Connected || status.Problem != last.Problem
	w.view.Store(view)
	w.status.Store(&status)
	if !changed {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}
