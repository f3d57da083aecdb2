package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// errLeaseLost: the lease has ended, or could have by now.
var errLeaseLost = errors.New("lease lost")

// withLease runs work with a lease that is kept alive meanwhile. work's context ends, with errLeaseLost as its cause, no
// later than etcd could end the lease. When work has returned, the lease and its keys are gone, unless etcd is away.
func (c *Cluster) withLease(ctx context.Context, work func(context.Context, clientv3.LeaseID) error) error {
	asked := time.Now()
	granting, granted := context.WithTimeout(ctx, requestTimeout)
	lease, err := c.client.Grant(granting, int64(c.leaseTTL.Seconds()))
	granted()
	if err != nil {
		return fmt.Errorf("grant a lease: %w", err)
	}
	held, lose := context.WithCancelCause(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { lose(c.keepAlive(held, lease.ID, asked, time.Duration(lease.TTL)*time.Second)) })

	err = work(held, lease.ID)
	lost := context.Cause(held)
	lose(nil)
	keeper.Wait()
	if errors.Is(lost, errLeaseLost) {
		err = errors.Join(lost, err)
	}
	// Not under ctx, which may have ended: who comes next should not have to wait until the lease has.
	revoking, revoked := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer revoked()
	if _, revokeErr := c.client.Revoke(revoking, lease.ID); revokeErr != nil && !errors.Is(revokeErr, rpctypes.ErrLeaseNotFound) {
		err = errors.Join(err, fmt.Errorf("revoke the lease: %w", revokeErr))
	}
	return err
}

// keepAlive returns nil when ctx ends, or errLeaseLost when the lease, last renewed by a request sent at renewed, cannot be
// relied on any more.
func (c *Cluster) keepAlive(ctx context.Context, id clientv3.LeaseID, renewed time.Time, ttl time.Duration) error {
	renewer := renewer{cluster: c, lease: id}
	defer renewer.hangUp()
	var failure error
	for wait := ttl / 4; ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		reliable := renewed.Add(ttl * 4 / 5)
		sent := time.Now()
		if !sent.Before(reliable) {
			return fmt.Errorf("%w: not renewed since %v: %w", errLeaseLost, time.Since(renewed).Round(time.Millisecond), failure)
		}
		switch err := renewer.renew(ctx, reliable); {
		case err == nil:
			renewed, wait = sent, ttl/4
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return fmt.Errorf("%w: %w", errLeaseLost, err)
		default:
			failure, wait = err, min(ttl/20, time.Until(reliable))
		}
	}
}

// renewer renews one lease, over one stream for as long as that is good: where etcd asks for passwords, each new stream costs
// it a slow hash.
//
// It does not use clientv3's KeepAliveOnce, which tries again without a pause for as long as there is no connection, nor its
// KeepAlive, which does not tell when the request that was answered was sent.
type renewer struct {
	cluster *Cluster
	lease   clientv3.LeaseID
	stream  etcdserverpb.Lease_LeaseKeepAliveClient // nil if there is none
	cancel  context.CancelFunc                      // ends stream
}

// renew renews the lease once, before the deadline. After an error the next call uses a new stream, so that no answer is
// taken for that of a later request.
func (r *renewer) renew(ctx context.Context, deadline time.Time) (err error) {
	if r.stream == nil {
		ctx, r.cancel = context.WithCancel(ctx)
	}
	defer time.AfterFunc(time.Until(deadline), r.cancel).Stop()
	defer func() {
		if err != nil {
			r.hangUp()
		}
	}()
	if r.stream == nil {
		if r.stream, err = clientv3.RetryLeaseClient(r.cluster.client).LeaseKeepAlive(ctx); err != nil {
			return rpctypes.Error(err)
		}
	}
	if err := r.stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(r.lease)}); err != nil && !errors.Is(err, io.EOF) {
		return rpctypes.Error(err)
	}
	resp, err := r.stream.Recv() // also tells why Send met EOF
	if err != nil {
		return rpctypes.Error(err)
	}
	if resp.TTL <= 0 {
		return rpctypes.ErrLeaseNotFound
	}
	return nil
}

func (r *renewer) hangUp() {
	if r.cancel != nil {
		r.cancel()
	}
	r.stream = nil
}

// untilGone returns nil when the key does not exist, or not by the creation of that revision (0: by any). Otherwise it
// returns ctx's error.
func (c *Cluster) untilGone(ctx context.Context, key string, created int64) error {
	for pause := newPause(); ; {
		gone, err := c.watchGone(ctx, key, created)
		if gone {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.log.DebugContext(ctx, "watch of a key ended", "key", key, "error", err)
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

func (c *Cluster) watchGone(ctx context.Context, key string, created int64) (gone bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	resp, err := c.client.Get(ctx, key)
	if err != nil {
		return false, err
	}
	if len(resp.Kvs) == 0 || created != 0 && resp.Kvs[0].CreateRevision != created {
		return true, nil
	}
	for events := range c.client.Watch(ctx, key, clientv3.WithRev(resp.Header.Revision+1), clientv3.WithFilterPut()) {
		if err := events.Err(); err != nil {
			return false, err
		}
		if len(events.Events) > 0 {
			return true, nil
		}
	}
	return false, ctx.Err()
}
