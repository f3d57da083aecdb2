package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Leadership is the proof of having been elected. It may be out of date at any time; a Txn that compares it is not.
type Leadership struct {
	Name           string
	Key            string
	CreateRevision int64 // grows from leader to leader of one name: a fencing token
}

// leads holds in a Txn if the leadership has not ended.
func (l Leadership) leads() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.Key), "=", l.CreateRevision)
}

var errLeadershipLost = errors.New("leadership lost")

// Lead runs work while this process is elected under name, again and again until ctx ends; it returns ctx's error then.
// value tells others who leads (see Leader).
//
// work's context ends when the leadership can no longer be relied on. The leadership is given up when work has returned,
// for whatever reason, and after a pause this process is a candidate again. Two works of one name overlap only if the
// first does not return in time when its context ends, or its process was frozen: what must happen once needs a compare.
func (c *Cluster) Lead(ctx context.Context, name, value string, work func(context.Context, Leadership) error) error {
	if err := checkName("election", name); err != nil {
		return err
	}
	leads, stopMetrics := observeLeading(name)
	defer stopMetrics()
	for pause := newPause(); ; {
		started := time.Now()
		err := c.withLease(ctx, func(ctx context.Context, lease clientv3.LeaseID) error {
			leadership, err := c.campaign(ctx, name, value, lease)
			if err != nil {
				return err
			}
			started = time.Now()
			c.log.InfoContext(ctx, "leading", "election", name, "revision", leadership.CreateRevision)
			leads.Store(true)
			defer leads.Store(false)
			return c.lead(ctx, leadership, work)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(started) > c.leaseTTL {
			pause.reset()
		}
		c.log.WarnContext(ctx, "not leading", "election", name, "error", err)
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// Leader returns the value of who leads under name, if anybody does.
func (c *Cluster) Leader(ctx context.Context, name string) (value string, ok bool, err error) {
	if err := checkName("election", name); err != nil {
		return "", false, err
	}
	resp, err := c.client.Get(ctx, c.keys.election(name), clientv3.WithFirstCreate()...)
	if err != nil {
		return "", false, fmt.Errorf("look up the leader of %s: %w", name, err)
	}
	if len(resp.Kvs) == 0 {
		return "", false, nil
	}
	return string(resp.Kvs[0].Value), true, nil
}

// recheck bounds how long a candidate whose key was taken away by hand goes on waiting in vain.
const recheck = 15 * time.Second

// campaign returns once this candidate is the oldest. The keys are laid out as clientv3's elections lay them out, so that
// etcdctl can look at them.
func (c *Cluster) campaign(ctx context.Context, name, value string, lease clientv3.LeaseID) (Leadership, error) {
	directory := c.keys.election(name)
	key := fmt.Sprintf("%s%x", directory, lease)
	put, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, value, clientv3.WithLease(lease))).
		Commit()
	if err != nil {
		return Leadership{}, fmt.Errorf("campaign for %s: %w", name, err)
	}
	if !put.Succeeded {
		return Leadership{}, fmt.Errorf("campaign for %s: key %s is there already", name, key)
	}
	leadership := Leadership{Name: name, Key: key, CreateRevision: put.Header.Revision}
	older := append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(leadership.CreateRevision-1))
	for {
		look, err := c.client.Txn(ctx).If(leadership.leads()).Then(clientv3.OpGet(directory, older...)).Commit()
		if err != nil {
			return Leadership{}, fmt.Errorf("campaign for %s: %w", name, err)
		}
		if !look.Succeeded {
			return Leadership{}, fmt.Errorf("campaign for %s: %w", name, errLeadershipLost)
		}
		before := look.Responses[0].GetResponseRange().Kvs
		if len(before) == 0 {
			return leadership, nil
		}
		waiting, cancel := context.WithTimeout(ctx, recheck)
		err = c.untilGone(waiting, string(before[0].Key), before[0].CreateRevision)
		cancel()
		if err != nil && ctx.Err() != nil {
			return Leadership{}, fmt.Errorf("campaign for %s: %w", name, context.Cause(ctx))
		}
	}
}

// lead runs work until it returns, with a context that also ends when the leader's key is gone.
func (c *Cluster) lead(ctx context.Context, leadership Leadership, work func(context.Context, Leadership) error) error {
	leading, depose := context.WithCancelCause(ctx)
	var observer sync.WaitGroup
	observer.Go(func() {
		if c.untilGone(leading, leadership.Key, leadership.CreateRevision) == nil {
			depose(errLeadershipLost)
		}
	})
	err := work(leading, leadership)
	if cause := context.Cause(leading); errors.Is(cause, errLeadershipLost) {
		err = errors.Join(cause, err)
	}
	depose(nil)
	observer.Wait()
	return err
}
