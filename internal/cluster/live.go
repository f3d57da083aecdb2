package cluster

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Announce keeps value at live/<kind>/<id> until ctx ends, and returns ctx's error then. The key is leased, and put again
// when it is lost.
func (c *Cluster) Announce(ctx context.Context, kind, id, value string) error {
	for what, name := range map[string]string{"kind": kind, "id": id} {
		if err := checkName(what, name); err != nil {
			return err
		}
	}
	key := c.keys.kind(kind) + id
	for pause := newPause(); ; {
		err := c.withLease(ctx, func(ctx context.Context, lease clientv3.LeaseID) error {
			if _, err := c.client.Put(ctx, key, value, clientv3.WithLease(lease)); err != nil {
				return fmt.Errorf("put %s: %w", key, err)
			}
			pause.reset()
			return c.untilGone(ctx, key, 0)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.log.WarnContext(ctx, "not announced", "key", key, "error", err)
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// Alive returns the announced values of a kind, by id. It is a hint: who has died is in it for a lease's time, and who is
// cut off from etcd is not.
func (c *Cluster) Alive(ctx context.Context, kind string) (map[string]string, error) {
	if err := checkName("kind", kind); err != nil {
		return nil, err
	}
	directory := c.keys.kind(kind)
	resp, err := c.client.Get(ctx, directory, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("look up who is alive: %w", err)
	}
	alive := make(map[string]string, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		alive[strings.TrimPrefix(string(kv.Key), directory)] = string(kv.Value)
	}
	return alive, nil
}
