package cluster

import (
	"context"
	"fmt"
)

// NoteAudit leaves word of what the audit that is always on has found last, for processes that do not audit. It is no part of a
// View, and nobody decides by it.
func (c *Cluster) NoteAudit(ctx context.Context, word []byte) error {
	if _, err := c.client.Put(ctx, c.keys.audit(), string(word)); err != nil {
		return fmt.Errorf("note what the audit has found: %w", err)
	}
	return nil
}

// Audit returns what was noted last; nil if nothing was.
func (c *Cluster) Audit(ctx context.Context) ([]byte, error) {
	resp, err := c.client.Get(ctx, c.keys.audit())
	if err != nil {
		return nil, fmt.Errorf("read what the audit has found: %w", err)
	}
	if len(resp.Kvs) == 0 {
		return nil, nil
	}
	return resp.Kvs[0].Value, nil
}
